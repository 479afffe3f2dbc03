"""What the first training step takes: cold, where the cell is compiled, and warm, where it lies in the cache."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from cells import WRITTEN
from common import CELLS, SHAPES, Shape, finish, fresh, options, start
from sides import NAMES, side, warm

ALL = tuple(dict.fromkeys((*CELLS, *WRITTEN)))


@dataclass
class Row:
    """Seconds from the cell's class to its first gradients, in processes of their own; medians."""

    cell: str
    shape: Shape
    cold: float
    warm: float
    eager: float
    threads: int
    rounds: int
    kind: str = field(default="first step", init=False)

    HEAD = ("cell", "T,B,I,H", "cold cache, s", "warm cache, s", "eager loop, s")

    def cells(self) -> tuple[str, ...]:
        """As one line of a table."""
        return (self.cell, str(self.shape), f"{self.cold:.2f}", f"{self.warm:.2f}", f"{self.eager:.2f}")


def main() -> None:
    parser = options(__doc__, shapes=SHAPES[:1], cells=ALL, rounds=3)
    parser.add_argument("--one", choices=NAMES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    start(given)
    if given.one:
        print(json.dumps(first(given.one, given.cells[0], given.shapes[0])))
        return
    rows = [row_of(cell, size, given) for size in given.shapes for cell in given.cells]
    finish(f"The first training step (torch {torch.__version__})", rows, given)


def row_of(cell: str, size: Shape, given: argparse.Namespace) -> Row:
    """One cell in one shape."""
    found: dict[str, list[float]] = {"cold": [], "warm": [], "eager": []}
    rest = ("--cells", cell, "--shapes", str(size), "--threads", str(given.threads))
    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory(prefix="cold-cellwright-") as name:
            for which in ("cold", "warm"):  # the first one fills the folder
                found[which].append(fresh(__file__, "--one", "cellwright", *rest, CELLWRIGHT_CACHE=str(Path(name))))
        found["eager"].append(fresh(__file__, "--one", "eager loop", *rest))
    row = Row(cell, size, *map(statistics.median, found.values()), given.threads, given.rounds)
    print(*row.cells(), sep=" | ", file=sys.stderr, flush=True)
    return row


def first(name: str, cell: str, size: Shape) -> float:
    """Seconds to make the layer and take its first training step, in this process."""
    warm()
    begin = time.perf_counter()
    work = side(name, cell, size, "train")
    assert work is not None
    work.call()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
