"""How time grows with the length: T doubles from 64 to 8192, and so should the time."""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass, field

import torch
from common import Shape, finish, options, sample, start
from sides import side

LENGTHS = tuple(2**power for power in range(6, 14))
SIDES = ("cellwright", "torch.nn")


@dataclass
class Row:
    """The time of one length, and how many times that of half of it."""

    side: str
    cell: str
    shape: Shape
    task: str
    ms: float
    microseconds_a_step: float
    growth: float | None
    threads: int
    rounds: int
    kind: str = field(default="length", init=False)

    HEAD = ("side", "cell", "T,B,I,H", "", "ms", "us a step", "x that of T / 2")

    def cells(self) -> tuple[str, ...]:
        """As one line of a table."""
        growth = "" if self.growth is None else f"{self.growth:.2f}"
        head = (self.side, self.cell, str(self.shape), self.task)
        return (*head, f"{self.ms:.4g}", f"{self.microseconds_a_step:.3g}", growth)


def main() -> None:
    parser = options(__doc__, shapes=[Shape(LENGTHS[-1], 16, 28, 128)], cells=("lstm", "gru", "rnn"), rounds=5)
    parser.add_argument(
        "--shortest", type=int, default=LENGTHS[0], help="the first T; those of the shapes are the last"
    )
    parser.set_defaults(cells=["lstm", "gru"])
    given = parser.parse_args()
    start(given)
    kinds = [(size, cell, task) for size in given.shapes for cell in given.cells for task in ("infer", "train")]
    rows = [row for one in kinds for name in SIDES for row in rows_of(name, *one, given)]
    finish(f"How time grows with T (torch {torch.__version__})", rows, given)


def rows_of(name: str, size: Shape, cell: str, task: str, given: argparse.Namespace) -> list[Row]:
    """All lengths of one side, in rounds through all of them."""
    lengths, length = [], given.shortest
    while length <= size.T:
        lengths.append(length)
        length *= 2
    works = {T: side(name, cell, size._replace(T=T), task) for T in lengths}
    seconds: dict[int, list[float]] = {T: [] for T in lengths}
    for _ in range(given.rounds):
        for T, work in works.items():
            assert work is not None
            seconds[T].append(sample(work, calls=3))
    rows, before = [], None
    for T in lengths:
        middle = statistics.median(seconds[T])
        growth = middle / before if before else None
        facts = (1e3 * middle, 1e6 * middle / T, growth, given.threads, given.rounds)
        rows.append(Row(name, cell, size._replace(T=T), task, *facts))
        print(*rows[-1].cells(), sep=" | ", file=sys.stderr, flush=True)
        before = middle
    return rows


if __name__ == "__main__":
    main()
