"""What all benchmarks share: shapes, options, interleaved timing, the check that numbers agree, rows and tables."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import cellwright as cw
from cellwright.kernels.torch_nn import stacked_weights

SECONDS_OF_REST = 0.05  # before every sample: threads that the other side left spinning go to sleep
SECONDS_OF_SAMPLE = 0.25
MOST_CALLS = 200  # in a sample
OUTPUTS, GRADIENTS = 1e-4, 5e-4  # largest difference that is let pass, as a share of the largest value (float32)


class Shape(NamedTuple):
    """Steps, rows, input columns, units."""

    T: int
    B: int
    I: int
    H: int

    def __str__(self) -> str:
        return ",".join(map(str, self))


SHAPES = tuple(
    Shape(*one)
    for one in ((35, 32, 28, 256), (100, 64, 128, 512), (35, 20, 650, 650), (784, 32, 1, 128), (100, 1, 28, 256))
)
CELLS: dict[str, Callable[[int, int], cw.Cell]] = {"lstm": cw.cells.LSTM, "gru": cw.cells.GRU, "rnn": cw.cells.RNN}
NN = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
GATES = {"lstm": 4, "gru": 3, "rnn": 1}


# ---- options --------------------------------------------------------------------------------------------------------


def options(about: str, shapes: Sequence[Shape] = SHAPES, cells: Iterable[str] = (), rounds: int = 15) -> Any:
    """The parser of a script's command line.

    Args:
        about: what the script does.
        shapes: measured where none are named.
        cells: names that `--cells` takes, all by default; none: no such option.
        rounds: A/B/A rounds by default.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--shapes", nargs="+", type=shape, default=list(shapes), metavar="T,B,I,H", help="what to time")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"default {rounds}; 0: only check the numbers")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of both sides (default: torch's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--dx", action="store_true", help="training wants the gradient of x too")
    if names := list(cells):
        parser.add_argument("--cells", nargs="+", choices=names, default=names, help="default: all")
    return parser


def shape(text: str) -> Shape:
    """A shape of the command line, as in 35,32,28,256."""
    parts = text.split(",")
    if len(parts) != 4 or not all(part.isdigit() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"a shape is T,B,I,H, as in 35,32,28,256, not {text!r}")
    return Shape(*map(int, parts))


def start(given: argparse.Namespace) -> None:
    """Set what every measurement starts from: the threads and the seed."""
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)


# ---- work -----------------------------------------------------------------------------------------------------------


def flops(gates: float, size: Shape, train: bool, dx: bool = False) -> float:
    """Operations of the products (a multiplication and an addition are two); what is done elementwise counts nothing.

    Forward T B G H (H + I) products; training adds the one that carries dh back, those of dW, and with dx that of dx.
    """
    rows = 2 * size.T * size.B * gates * size.H
    forward = rows * (size.H + size.I)
    return forward + (rows * size.H + rows * (size.H + size.I) + dx * rows * size.I) * train


class Work(NamedTuple):
    """What one side does once, what happens, untimed, before it does so again, and what drops its gradients."""

    call: Callable[[], Any]
    between: Callable[[], Any] = lambda: None
    drop: Callable[[], Any] = lambda: None


def inference(forward: Callable[[], Any]) -> Work:
    """The forward pass of torch modules, nothing kept for a backward."""
    return Work(torch.no_grad()(forward))


def training(forward: Callable[[], Tensor], weights: Sequence[Tensor], dy: Tensor, x: Tensor) -> Work:
    """Forward and backward of torch modules; every weight changes in place in between, as by an optimizer.

    Args:
        forward: gives y.
        weights: whose gradients are wanted.
        dy: the gradient of y.
        x: the input, whose gradient is dropped too where it has one.
    """

    def drop() -> None:
        for tensor in (*weights, x):
            tensor.grad = None

    def step() -> None:
        drop()
        forward().backward(dy)

    @torch.no_grad()
    def change() -> None:
        for weight in weights:
            weight.mul_(1 - 2**-23)

    return Work(step, change, drop)


def inputs(size: Shape, dx: bool = False) -> tuple[Tensor, Tensor]:
    """x (T, B, I) and the gradient of y (T, B, H)."""
    return torch.randn(size.T, size.B, size.I, requires_grad=dx), torch.randn(size.T, size.B, size.H)


def as_torch_nn(cell: cw.Cell) -> nn.RNNBase:
    """The layer of torch.nn with the weights of a cell."""
    layer = NN[type(cell).__name__.lower()](cell.input_size, cell.hidden_size)
    form = cell.torch_form()
    assert form is not None
    with torch.no_grad():
        for own, weight in zip(layer.parameters(), stacked_weights(cell, form), strict=True):
            own.copy_(weight)
    return layer


def stacked_gradients(cell: cw.Cell) -> list[Tensor]:
    """The gradients of a cell's weights as torch.nn stacks them: (G*H, I), (G*H, H), (G*H,)."""
    form = cell.torch_form()
    assert form is not None
    grads: Any = SimpleNamespace(hidden_size=cell.hidden_size, **{n: p.grad for n, p in cell.named_parameters()})
    return stacked_weights(grads, form)[:3]


# ---- the same numbers -----------------------------------------------------------------------------------------------


def agree(what: str, ours: Any, rival: Any, most: float) -> float:
    """The largest difference as a share of the largest value; ends the benchmark where it is more than `most`."""
    ours, rival = (torch.as_tensor(one).detach().to(torch.float64) for one in (ours, rival))
    if ours.shape != rival.shape:
        raise SystemExit(f"NOT THE SAME: {what}: shapes {tuple(ours.shape)} and {tuple(rival.shape)}")
    difference = float((ours - rival).abs().max() / rival.abs().max().clamp_min(1e-30))
    if not difference <= most:  # NaN too
        raise SystemExit(f"NOT THE SAME: {what} differ by {difference:.1e} of the largest value, more than {most:.0e}")
    return difference


def agree_on_gradients(what: str, pairs: Iterable[tuple[Any, Any]]) -> float:
    """`agree` for pairs of ours and the rival's gradients; the largest difference."""
    return max(agree(f"gradients of {what}", ours, rival, GRADIENTS) for ours, rival in pairs)


def gradients(work: Work, tensors: Iterable[Tensor]) -> list[Tensor]:
    """The gradients that one training step leaves, of those tensors that want one."""
    work.call()
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    missing = [place for place, tensor in enumerate(wanted) if tensor.grad is None]
    if missing:
        raise SystemExit(f"NOT THE SAME: no gradient for the tensors {missing}")
    return [tensor.grad for tensor in wanted if tensor.grad is not None]


# ---- time -----------------------------------------------------------------------------------------------------------


class Spread(NamedTuple):
    """A median between its quartiles."""

    low: float
    median: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


class Times(NamedTuple):
    """Seconds of the rival and of ours, and how many times faster ours is."""

    rival: Spread
    ours: Spread
    ratio: Spread


def compare(rival: Work, ours: Work, rounds: int) -> Times:
    """Rounds of rival, ours, rival, so that a drift of the machine meets both; each round gives one ratio."""
    if not rounds:
        return Times(*(Spread(math.nan, math.nan, math.nan),) * 3)
    calls = [calls_of_sample(rival), calls_of_sample(ours)]
    a, b, ratios = [], [], []
    for _ in range(rounds):
        before, own, after = sample(rival, calls[0]), sample(ours, calls[1]), sample(rival, calls[0])
        a += [before, after]
        b.append(own)
        ratios.append((before + after) / 2 / own)
    return Times(spread(a), spread(b), spread(ratios))


def calls_of_sample(work: Work) -> int:
    """Warm up, and how many calls make a sample."""
    for _ in range(2):
        seconds = sample(work, 1)
    return min(MOST_CALLS, max(1, math.ceil(SECONDS_OF_SAMPLE / seconds)))


def sample(work: Work, calls: int) -> float:
    """Seconds of one call: the median of some, after a rest and one that is not timed."""
    time.sleep(SECONDS_OF_REST)
    work.call()
    seconds = []
    for _ in range(calls):
        work.between()
        begin = time.perf_counter()
        work.call()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


# ---- rows -----------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """One comparison: times in milliseconds, each (lower quartile, median, upper quartile)."""

    rival: str
    cell: str
    shape: Shape
    task: str
    rival_ms: Spread
    ours_ms: Spread
    ratio: Spread
    mflop: float  # of one call: 10^6 operations, of the products only
    peak: float  # GF/s
    difference: float
    threads: int
    rounds: int
    versions: str
    note: str = ""
    kind: str = field(default="times", init=False)

    HEAD = ("cell", "T,B,I,H", "", "rival", "rival ms", "ours ms", "ours is x faster", "of peak", "differ by", "")

    def share(self, milliseconds: float) -> str:
        """The share of the peak that so many milliseconds are."""
        return "-" if math.isnan(milliseconds) else f"{self.mflop / milliseconds / self.peak:.0%}"

    def cells(self) -> tuple[str, ...]:
        """As one line of a table."""
        shares = f"{self.share(self.rival_ms.median)} -> {self.share(self.ours_ms.median)}"
        times = (text(self.rival_ms), text(self.ours_ms), text(self.ratio))
        return (self.cell, str(self.shape), self.task, self.rival, *times, shares, f"{self.difference:.0e}", self.note)


def text(value: Spread) -> str:
    """As in 1.64 (1.60-1.71)."""
    return "-" if math.isnan(value.median) else f"{value.median:.3g} ({value.low:.3g}-{value.high:.3g})"


def measure(
    names: tuple[str, str, str],
    size: Shape,
    works: tuple[Work, Work],
    gates: float,
    difference: float,
    given: argparse.Namespace,
    versions: str,
    note: str = "",
) -> Row:
    """Time a pair that was found to agree.

    Args:
        names: of the rival, the cell and the task, "infer" or "train".
        size: the shape.
        works: the rival's, ours.
        gates: of the cell, or as many as its products are worth.
        difference: what `agree` found.
        given: the options; `peak` among them.
        versions: of what ran.
        note: about the rival.
    """
    rival, cell, task = names
    times = compare(*works, given.rounds)
    train = task == "train"
    count = flops(gates, size, train, given.dx and train) / 1e6
    milliseconds = [Spread(*(1e3 * one for one in side)) for side in times[:2]]
    task = "train, dx" if train and given.dx else task
    facts = (count, given.peak, difference, given.threads, given.rounds, versions, note)
    row = Row(rival, cell, size, task, *milliseconds, times.ratio, *facts)
    print(*row.cells(), sep=" | ", file=sys.stderr, flush=True)
    return row


def finish(title: str, rows: Sequence[Any], given: argparse.Namespace) -> None:
    """Print the rows as a table, and write them where a file was named."""
    table = Table(*(rows[0].HEAD if rows else ()), title=title)
    for row in rows:
        table.add_row(*row.cells())
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    if given.json:
        found = [{"title": title, "head": row.HEAD, "line": row.cells(), **asdict(row)} for row in rows]
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def fresh(script: str, *arguments: str, **environment: str) -> Any:
    """What a script prints as its last line, as JSON, run in a process of its own."""
    command = [sys.executable, str(Path(script).resolve()), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
