"""Every cell of the library against its equations step by step, and its time for a multiply-add beside an LSTM's."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field

import torch
from common import GRADIENTS, OUTPUTS, Shape, Spread, agree, compare, finish, gradients, inputs, options, start, text
from common import training as work_of

import cellwright as cw
from cellwright.cells import LIBRARY
from cellwright.probe.latex import multiply_adds
from cellwright.step import capture

SIZE = Shape(35, 32, 28, 256)


@dataclass
class Row:
    """A training step of one cell."""

    cell: str
    shape: Shape
    rival_ms: Spread
    ours_ms: Spread
    ratio: Spread
    picoseconds: float  # of a multiply-add of the forward pass
    difference: float
    threads: int
    rounds: int
    kind: str = field(default="library", init=False)

    HEAD = ("cell", "T,B,I,H", "eager loop ms", "ours ms", "ours is x faster", "ps a multiply-add", "differ by")

    def cells(self) -> tuple[str, ...]:
        """As one line of a table."""
        times = (text(self.rival_ms), text(self.ours_ms), text(self.ratio))
        return (self.cell, str(self.shape), *times, f"{self.picoseconds:.0f}", f"{self.difference:.0e}")


def main() -> None:
    parser = options(__doc__, shapes=[SIZE], cells=LIBRARY, rounds=3)
    parser.set_defaults(cells=list(LIBRARY))
    given = parser.parse_args()
    start(given)
    rows = [row_of(name, size, given) for size in given.shapes for name in given.cells]
    finish(f"Training every cell (torch {torch.__version__})", rows, given)


def row_of(name: str, size: Shape, given: argparse.Namespace) -> Row:
    """Check and time one cell."""
    cell = LIBRARY[name](size.I, size.H)
    ours, rival = cw.Recurrent(cell, backend="c"), cw.Recurrent(cell, backend="eager")
    x, dy = inputs(size._replace(H=cell.output_size), given.dx)
    weights = list(cell.parameters())
    works = [work_of(lambda layer=layer: layer(x)[0], weights, dy, x) for layer in (rival, ours)]
    with torch.no_grad():
        difference = agree(f"outputs of {name}", ours(x)[0], rival(x)[0], OUTPUTS)
    theirs, own = (torch.cat([one.flatten() for one in gradients(work, weights)]) for work in works)
    difference = max(
        difference, agree(f"gradients of {name}", own, theirs, GRADIENTS)
    )  # some are zero but for rounding
    times = compare(*works, given.rounds)
    milliseconds = [Spread(*(1e3 * one for one in side)) for side in times[:2]]
    count = size.T * size.B * multiply_adds(capture(cell, torch.float32))
    facts = (1e9 * milliseconds[1].median / count, difference, given.threads, given.rounds)
    row = Row(name, size, *milliseconds, times.ratio, *facts)
    print(*row.cells(), sep=" | ", file=sys.stderr, flush=True)
    return row


if __name__ == "__main__":
    main()
