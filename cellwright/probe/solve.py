"""solve: train a cell on a memory task until it is solved, or until its steps run out."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from cellwright.cells import Cell, cell_label, find_cell
from cellwright.cells.init import chrono, forget_bias
from cellwright.errors import SettingError
from cellwright.layers import Recurrent
from cellwright.probe.tasks import Task, find_task

RECENT = 2000  # sequences in a row that have to be right, as Hochreiter and Schmidhuber (1997) ask
POINTS = 100  # of a curve, at most
CHRONO = "chrono"


@dataclass(frozen=True)
class Learning:
    """How a network learns a task, the same for every cell.

    Args:
        steps: updates of the weights, after which it is given up (default 5000).
        hidden_size: units H (default 64: none of the tasks needs more, and more take longer).
        batch_size: sequences B of an update (default 32).
        learning_rate: of Adam, which needs less tuning from cell to cell than plain descent (default 0.005).
        clip: largest norm of the gradient, as a steep batch throws a cell with a long memory far off (default 1).
        forget_bias: biases of forget gates at first, where a cell has such gates: a number; "chrono" for memories up
            to the length of the task (Tallec and Ollivier 2018; default); None as the cell itself draws them.
        backend: what runs the cell (default "auto").
    """

    steps: int = 5000
    hidden_size: int = 64
    batch_size: int = 32
    learning_rate: float = 0.005
    clip: float = 1.0
    forget_bias: float | str | None = CHRONO
    backend: str = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "hidden_size", "batch_size", "learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise SettingError(f"{name} is above 0", f"{getattr(self, name)!r}", "write a positive number")
        if isinstance(self.forget_bias, str) and self.forget_bias != CHRONO:
            raise SettingError(
                f"forget_bias is a number, or {CHRONO!r}, or None", repr(self.forget_bias), "write 1.0, say"
            )


@dataclass(frozen=True)
class Trial:
    """How one training on a task went.

    Args:
        cell, task, length, seed: what was trained on what.
        parameters: numbers that were learned.
        end: "solved", "steps" (they ran out) or "diverged" (a loss was no finite number).
        steps: updates until then.
        loss, right: mean loss and share of right answers of the last 2000 sequences, each before it is learned from.
        seconds: how long it took.
        curve: (steps, loss, right) as it went, at most 100 of them.
    """

    cell: str
    task: str
    length: int
    seed: int
    parameters: int
    end: str
    steps: int
    loss: float
    right: float
    seconds: float
    curve: tuple[tuple[int, float, float], ...]

    @property
    def solved(self) -> bool:
        """Whether the last 2000 sequences were all answered right."""
        return self.end == "solved"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


Maker = Callable[[int, int], Cell]
Watch = Callable[[int, float, float], None]


def solve(
    cell: str | Maker,
    task: str,
    length: int,
    seed: int = 0,
    learning: Learning | None = None,
    watch: Watch | None = None,
) -> Trial:
    """Train a cell, and a linear map of its output, on a memory task.

    >>> trial = solve("gru", "parity", length=2, learning=Learning(steps=3, hidden_size=4, backend="torch"))
    >>> trial.end, trial.steps
    ('steps', 3)

    It is solved as soon as 2000 sequences in a row were answered right, each before anything was learned from it.

    Args:
        cell: a name as `find_cell` takes, or what builds a cell from (input_size, hidden_size).
        task: a name in TASKS.
        length: how long its sequences are, as the task counts.
        seed: of weights and sequences (default 0).
        learning: how to learn (default: `Learning()`).
        watch: is told after every update: how many there were, and its loss and share of right answers.

    Raises:
        SettingError: there is no such task, or it needs longer sequences.
    """
    learning, what = learning or Learning(), find_task(task)
    if length < what.shortest:
        raise SettingError(f"lengths of the task {task} are at least {what.shortest}", str(length), "write more")
    course, started = _Course(learning), time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Network(find_cell(cell) if isinstance(cell, str) else cell, what, length, learning)
        for loss, right in _updates(network, what, length, seed, learning):
            course.add(loss, right)
            if watch:
                watch(course.steps, loss, right)
            if course.end != "steps":
                break
    name = cell_label(cell) if isinstance(cell, str) else getattr(cell, "__name__", str(cell))
    size, seconds = sum(p.numel() for p in network.parameters()), time.perf_counter() - started
    means = course.means()
    return Trial(name, task, length, seed, size, course.end, course.steps, *means, seconds, tuple(course.curve))


class _Network(nn.Module):
    """A recurrent layer and a linear map of its outputs."""

    def __init__(self, make: Maker, task: Task, length: int, learning: Learning) -> None:
        super().__init__()
        cell = make(task.inputs, learning.hidden_size)
        if "forget gate" in cell.gates.values() and learning.forget_bias is not None:
            if isinstance(learning.forget_bias, str):
                chrono(cell, max(length, 3))
            else:
                forget_bias(cell, learning.forget_bias)
        self.recurrent = Recurrent(cell, backend=learning.backend)
        self.output = nn.Linear(cell.output_size, task.outputs)
        self.at_end = task.at_end

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.recurrent(x)  # (T, B, H)
        scores: Tensor = self.output(y[-1] if self.at_end else y)
        return scores


def _updates(
    network: nn.Module, task: Task, length: int, seed: int, learning: Learning
) -> Iterator[tuple[float, float]]:
    """Learn from one batch after the other; yields loss and share of right answers, both before the update."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), learning.learning_rate, fused=True)
    for _ in range(learning.steps):
        x, target = task.draw(length, learning.batch_size, generator)
        y = network(x)
        loss, right = task.loss(y, target), task.right(y.detach(), target)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), learning.clip)
        optimizer.step()
        yield loss.item(), right.float().mean().item()


class _Course:
    """How a training goes: its end, its curve, and what the last 2000 sequences gave."""

    def __init__(self, learning: Learning) -> None:
        self.recent: deque[tuple[float, float]] = deque(maxlen=math.ceil(RECENT / learning.batch_size))
        self.curve: list[tuple[int, float, float]] = []
        self.every = math.ceil(learning.steps / POINTS)
        self.steps, self.end = 0, "steps"

    def add(self, loss: float, right: float) -> None:
        """Count an update."""
        self.steps += 1
        if not math.isfinite(loss):
            self.end = "diverged"
            return
        self.recent.append((loss, right))
        if len(self.recent) == self.recent.maxlen and all(right == 1 for _, right in self.recent):
            self.end = "solved"
        if self.steps % self.every == 0 or self.end == "solved":
            self.curve.append((self.steps, *self.means()))

    def means(self) -> tuple[float, float]:
        """Mean loss, and share of right answers, of the last 2000 sequences."""
        if not self.recent:
            return math.inf, 0.0
        losses, shares = zip(*self.recent, strict=True)
        return fmean(losses), fmean(shares)
