"""Memory tasks: one row each in TASKS, with what is drawn, learned, asked for, and known before learning.

Shapes: T time steps, B sequences, I inputs, O outputs. Batches are drawn as they are needed and never repeat.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from cellwright.errors import SettingError
from cellwright.probe.reber import LETTERS, SHORTEST, followers, strings

Judge = Callable[[Tensor, Tensor], Tensor]  # from outputs (T, B, O), or (B, O) at the end, and targets


@dataclass(frozen=True)
class Task:
    """A memory task.

    Args:
        inputs, outputs: columns I of x, O of what the network answers.
        shortest: least length.
        draw: from length, rows B and a generator: x (T, B, I) and targets, (B, ...) at the end or (T, B).
        at_end: whether only the answer after the last step counts.
        loss: what is made small.
        right: which sequences (B,) are answered correctly.
        baseline: the loss, by length, of the best answer that remembers nothing.
        length: what the length counts.
        source: paper, and where this differs.
    """

    inputs: int
    outputs: int
    shortest: int
    draw: Callable[[int, int, Generator], tuple[Tensor, Tensor]]
    at_end: bool
    loss: Judge
    right: Judge
    baseline: Callable[[int], float]
    length: str
    source: str


def find_task(name: str) -> Task:
    """A task by its name.

    Raises:
        SettingError: no such task.
    """
    if name not in TASKS:
        raise SettingError(f"a task is one of {', '.join(TASKS)}", repr(name), "write one of those names")
    return TASKS[name]


def _about(length: int, generator: Generator) -> int:
    """Up to a tenth longer than `length`, so that steps cannot be counted; the same for a whole batch."""
    return length + int(torch.randint(length // 10 + 1, (), generator=generator))


def draw_adding(length: int, rows: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Numbers from U(0, 1), two of them marked, one in each half: what is their sum?"""
    numbers = torch.rand(length, rows, generator=generator)  # (T, B)
    half = length // 2
    first = torch.randint(half, (rows,), generator=generator)
    second = torch.randint(half, length, (rows,), generator=generator)
    each = torch.arange(rows)
    marks = torch.zeros(length, rows)
    marks[first, each] = marks[second, each] = 1.0
    total = numbers[first, each] + numbers[second, each]
    return torch.stack((numbers, marks), dim=2), total.unsqueeze(1)  # (T, B, 2), (B, 1)


KINDS, BLANK, DELIMITER, COPIED = 8, 8, 9, 10


def draw_copy(length: int, rows: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Ten symbols of eight kinds, blanks, a delimiter, ten blanks: blanks are wanted, and at the end the ten again."""
    symbols = torch.randint(KINDS, (COPIED, rows), generator=generator)
    given = torch.full((length + 2 * COPIED, rows), BLANK)
    given[:COPIED] = symbols
    given[length + COPIED - 1] = DELIMITER
    target = torch.full_like(given, BLANK)
    target[-COPIED:] = symbols
    return functional.one_hot(given, KINDS + 2).float(), target  # (T, B, 10), (T, B)


X, Y, START, TRIGGER = 4, 5, 6, 7  # after the four distractors a, b, c, d


def draw_order(length: int, rows: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Distractors with X or Y at two far places: XX, XY, YX or YY?"""
    steps, tenth, each = _about(length, generator), length // 10, torch.arange(rows)
    symbols = torch.randint(4, (steps, rows), generator=generator)
    symbols[0], symbols[-1] = START, TRIGGER
    first, second = torch.randint(2, (2, rows), generator=generator)
    symbols[torch.randint(tenth, 2 * tenth + 1, (rows,), generator=generator), each] = X + first
    symbols[torch.randint(5 * tenth, 6 * tenth + 1, (rows,), generator=generator), each] = X + second
    return functional.one_hot(symbols, 8).float(), 2 * first + second  # (T, B, 8), (B,)


def draw_reber(length: int, rows: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Strings of the embedded Reber grammar: what is the next symbol, at every step?"""
    symbols = strings(_about(length, generator), rows, generator)
    return functional.one_hot(symbols[:-1], len(LETTERS)).float(), symbols[1:]  # (T, B, 7), (T, B)


def draw_parity(length: int, rows: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Bits as -1 and 1: is the number of ones so far odd, at every step?"""
    bits = torch.randint(2, (_about(length, generator), rows), generator=generator)
    return (2.0 * bits - 1).unsqueeze(2), (bits.cumsum(0) % 2).float()  # (T, B, 1), (T, B)


def classes(y: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of scores y (..., O) on classes (...), in nats, over all steps and sequences."""
    return functional.cross_entropy(y.flatten(0, -2), target.flatten())


def binary(y: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of y (T, B, 1) as the score of a one, in nats."""
    return functional.binary_cross_entropy_with_logits(y.squeeze(-1), target)


def near(y: Tensor, target: Tensor) -> Tensor:
    """Within 0.04 of the range of sums, which is 2 here."""
    return ((y - target).abs() < 0.08).all(1)


def sure(y: Tensor, target: Tensor) -> Tensor:
    """Every output within 0.3 of 1 for its class and of 0 for the others."""
    return ((y.softmax(-1) - functional.one_hot(target, y.shape[-1])).abs() < 0.3).all(-1)


def likeliest(y: Tensor, target: Tensor) -> Tensor:
    """At every step the wanted class has the largest score."""
    return (y.argmax(-1) == target).all(0)


def allowed(y: Tensor, target: Tensor) -> Tensor:
    """At every step the largest score is that of a symbol that may follow."""
    start = torch.zeros_like(target[:1])  # every string begins with B
    legal = followers(torch.cat((start, target[:-1])))
    return legal.gather(2, y.argmax(-1, keepdim=True)).squeeze(2).all(0)


def sign(y: Tensor, target: Tensor) -> Tensor:
    """At every step the sign is right."""
    return ((y.squeeze(-1) > 0) == (target > 0)).all(0)


def guess_reber(length: int) -> float:
    """The loss of knowing the grammar, each way on as likely as another, and guessing the letter to remember."""
    symbols = strings(length, 1000, torch.Generator().manual_seed(0))
    ways = followers(symbols[:-1]).sum(2)
    return float(ways.log().mean()) + math.log(2) / (length - 1)


TASKS: dict[str, Task] = {
    "adding": Task(
        inputs=2,
        outputs=1,
        shortest=2,
        draw=draw_adding,
        at_end=True,
        loss=functional.mse_loss,
        right=near,
        baseline=lambda length: 1 / 6,  # of always answering 1: the variance of a sum of two of U(0, 1)
        length="steps",
        source="Hochreiter and Schmidhuber (1997), experiment 4, whose sums lie in [0, 1] and have to be within 0.04; "
        "as in Le et al. (2015), arXiv 1504.00941: numbers from [0, 1] and the plain sum, hence within 0.08; "
        "a mark in each half and the baseline as in Arjovsky et al. (2016), arXiv 1511.06464, section 5",
    ),
    "copy": Task(
        inputs=KINDS + 2,
        outputs=KINDS + 1,
        shortest=1,
        draw=draw_copy,
        at_end=False,
        loss=classes,
        right=likeliest,
        baseline=lambda length: COPIED * math.log(KINDS) / (length + 2 * COPIED),  # blanks known, symbols guessed
        length="steps from the last symbol to the delimiter; 20 more in all",
        source="Arjovsky et al. (2016), arXiv 1511.06464, section 5, which shows losses only: that a sequence counts "
        "where all its steps are right is ours",
    ),
    "order": Task(
        inputs=8,
        outputs=4,
        shortest=10,
        draw=draw_order,
        at_end=True,
        loss=classes,
        right=sure,
        baseline=lambda length: math.log(4),
        length="least steps; the first letter comes in the second tenth of them, the other in the sixth",
        source="Hochreiter and Schmidhuber (1997), experiment 6a, where it is 100 steps; outputs are a softmax here, "
        "four sigmoids trained on squared errors there",
    ),
    "reber": Task(
        inputs=len(LETTERS),
        outputs=len(LETTERS),
        shortest=SHORTEST,
        draw=draw_reber,
        at_end=False,
        loss=classes,
        right=allowed,
        baseline=guess_reber,
        length="least symbols of a string",
        source="Hochreiter and Schmidhuber (1997), experiment 1, after Cleeremans et al. (1989), with strings of any "
        "length, at least 9; drawn anew there are more than 256 of them; the criterion in these words is ours",
    ),
    "parity": Task(
        inputs=1,
        outputs=1,
        shortest=1,
        draw=draw_parity,
        at_end=False,
        loss=binary,
        right=sign,
        baseline=lambda length: math.log(2),
        length="least steps",
        source="Hochreiter and Schmidhuber (1996), LSTM can solve hard long time lag problems, who ask after the last "
        "step only and find that guessing weights beats learning; that every step has its answer is ours",
    ),
}
