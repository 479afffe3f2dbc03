"""Packing: where the packed weights of every product lie, and how many a run needs at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cellwright.program.program import Program
from cellwright.program.split import EARLY, STAGES, TIMED

LANES = 16  # of the widest vector
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


def packing(program: Program, packs: Sequence[Place]) -> Packing:
    """Where the packed products of a program lie, one after the other."""
    starts, sizes, steps = [], {True: 0, False: 0}, dict.fromkeys(STAGES, 0)
    for stage, place, number in packs:
        loop = program.stages[stage][place]
        product = loop.products[number]
        total = sum(arg.width for arg in product.inputs)
        count = -(-loop.width // LANES) * LANES * len(product.slots) * total
        starts.append(sizes[stage in EARLY])
        sizes[stage in EARLY] += count
        steps[stage] += count
    return Packing(tuple(starts), max(sizes.values()), max(steps[stage] for stage in TIMED))
