"""The most memory that one training step takes, in a fresh process for each: ours, torch.nn and the eager loop.

What is measured is the process's resident memory, as the system counts it, so that what C code allocates counts too:
weights, x and the gradient of y are there, and compiled is what is to be compiled; two time steps of another layer
like it have loaded and started the rest; freed memory is given back (malloc_trim, our pool of results); the system's
high-water mark is set back (Linux: 5 to /proc/self/clear_refs); then one step runs. Reported is the high-water mark
(VmHWM) after it less what was resident (VmRSS) before it: everything kept for the backward, all gradients, packed
weights and scratch; and what is still resident after y and all gradients are dropped: what the side keeps for its next
step.
Where the mark cannot be set back it is the growth of `ru_maxrss`, which is never more.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import resource
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from cells import WRITTEN
from common import CELLS, SHAPES, Shape, finish, fresh, options, start
from sides import NAMES, side, warm

from cellwright.kernels.c.pool import empty

ALL = tuple(dict.fromkeys((*CELLS, *WRITTEN)))
STATUS = Path("/proc/self/status")


@dataclass
class Row:
    """The memory of one side in MiB, the medians of some processes, and how many times ours it is."""

    side: str
    cell: str
    shape: Shape
    most: float
    kept: float
    of_ours: float
    threads: int
    rounds: int
    kind: str = field(default="memory", init=False)

    HEAD = ("cell", "T,B,I,H", "side", "MiB of a training step", "x ours", "MiB kept after it")

    def cells(self) -> tuple[str, ...]:
        """As one line of a table."""
        return (self.cell, str(self.shape), self.side, f"{self.most:.1f}", f"{self.of_ours:.2f}", f"{self.kept:.1f}")


def main() -> None:
    parser = options(__doc__.splitlines()[0], shapes=SHAPES, cells=ALL, rounds=3)
    parser.set_defaults(cells=["lstm", "gru"])
    parser.add_argument("--one", choices=NAMES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    start(given)
    if given.one:
        print(json.dumps(growth(given.one, given.cells[0], given.shapes[0])))
        return
    rows = [row for size in given.shapes for cell in given.cells for row in rows_of(cell, size, given)]
    finish(f"Memory of a training step (torch {torch.__version__})", rows, given)


def rows_of(cell: str, size: Shape, given: argparse.Namespace) -> list[Row]:
    """All sides that have the cell, ours first."""
    rows: list[Row] = []
    for name in NAMES:
        command = ("--one", name, "--cells", cell, "--shapes", str(size), "--threads", str(given.threads))
        found = [fresh(__file__, *command) for _ in range(given.rounds)]
        if None in found:
            continue
        peak, kept = (statistics.median(one) / 1024 for one in zip(*found, strict=True))
        ours = rows[0].most if rows else peak
        rows.append(Row(name, cell, size, peak, kept, peak / max(ours, 1e-9), given.threads, given.rounds))
        print(*rows[-1].cells(), sep=" | ", file=sys.stderr, flush=True)
    return rows


def growth(name: str, cell: str, size: Shape) -> tuple[int, int] | None:
    """Kilobytes that one training step adds at most, and that stay; None where the side does not have the cell."""
    warm()
    short, whole = (side(name, cell, one, "train") for one in (size._replace(T=min(2, size.T)), size))
    if short is None or whole is None:
        return None
    short.call()
    short.between()
    del short
    empty()
    give_back()
    before = set_back()
    whole.call()
    after = most()
    whole.drop()
    give_back()
    return after - before, status("VmRSS") - before if STATUS.exists() else 0


def give_back() -> None:
    """Give what was freed back to the system."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def set_back() -> int:
    """Set the high-water mark to what is resident now, and say what that is; as it is where that cannot be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return most()
    return status("VmRSS")


def most() -> int:
    """The high-water mark in kilobytes."""
    return status("VmHWM") if STATUS.exists() else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def status(key: str) -> int:
    """A line of /proc/self/status."""
    lines = (line.split() for line in STATUS.read_text().splitlines())
    return next(int(line[1]) for line in lines if line[0] == f"{key}:")


if __name__ == "__main__":
    main()
