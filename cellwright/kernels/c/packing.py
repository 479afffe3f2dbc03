"""Packing: where the packed weights of every product lie, and how many a run needs at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cellwright.program.program import Program
from cellwright.program.split import EARLY, STAGES, TIMED

LANES = 16  # of the widest vector
BLOCK = 32  # numbers that a tile sums over where products are in thirds, as in loops.h
THIRDS = 1.5  # numbers' worth of memory of one in thirds
Place = tuple[str, int, int]
"""A packed product: its stage, pass, and number in the pass."""


class Packing(NamedTuple):
    """Packed weights by numbers: forward's, and from the same place on, for they come later, backward's."""

    starts: tuple[int, ...]
    """Of every packed product, how many numbers lie before its own."""
    size: int
    """How many lie there at once."""
    each_step: int
    """How many of them a loop over time reads at every step."""
    blocks: tuple[int, int]
    """Of a pass, of a loop over time and of another stage, the most blocks (loops.h) that its rows take in thirds."""


def packing(program: Program, packs: Sequence[Place], thirds: bool = False) -> Packing:
    """Where the packed products of a program lie, one after the other, plain or in thirds."""
    starts, sizes, steps = [], {True: 0, False: 0}, dict.fromkeys(STAGES, 0)
    blocks: dict[tuple[str, int], int] = {}
    for stage, place, number in packs:
        loop = program.stages[stage][place]
        product = loop.products[number]
        depths = [arg.width for arg in product.inputs]
        count = sum(-(-depth // BLOCK) for depth in depths)
        blocks[stage, place] = blocks.get((stage, place), 0) + count
        total = int(THIRDS * BLOCK) * count if thirds else sum(depths)
        count = -(-loop.width // LANES) * LANES * len(product.slots) * total
        starts.append(sizes[stage in EARLY])
        sizes[stage in EARLY] += count
        steps[stage] += count
    timed, other = ([n for (stage, _), n in blocks.items() if (stage in TIMED) == of] for of in (True, False))
    most = max(timed, default=0), max(other, default=0)
    return Packing(tuple(starts), max(sizes.values()), max(steps[stage] for stage in TIMED), most)
