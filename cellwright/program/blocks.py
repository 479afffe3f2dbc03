"""Blocks: the products after the loop, joined where they share one side, and where each gradient finds its parts."""

from __future__ import annotations

from typing import NamedTuple

from cellwright.program.graph import Graph
from cellwright.program.places import Block, Part, Place
from cellwright.step.atoms import Read
from cellwright.step.refused import Refused


class Operand(NamedTuple):
    """One side of a product after the loop; `looped` where it depends on the incoming gradient."""

    name: str
    parts: tuple[Read, ...]
    looped: bool


Key = tuple[Place, int, bool]
Homes = dict[int, tuple[Place, ...]]
Runs = list[tuple[int, int]]
"""Columns from and up to, one run after the other."""


def plan_blocks(
    graph: Graph, operands: list[Operand], homes: Homes, turned: tuple[bool, ...]
) -> tuple[tuple[Block, ...], tuple[tuple[tuple[Part, ...], ...], ...]]:
    """Blocks of products over all rows, and for each product its parts among them; some are computed transposed."""
    pairs = [
        (right, left) if turn else (left, right)
        for left, right, turn in zip(operands[::2], operands[1::2], turned, strict=True)
    ]
    spans: dict[Key, list[Runs]] = {}  # of a fixed side: of every product the columns of the other side's matrix
    for left, right in pairs:
        mine: dict[Key, Runs] = {}
        for a in left.parts:
            for b in right.parts:
                key, column, width = _key(graph, homes, a, b, left.looped)
                _extend(mine.setdefault(key, []), column, column + width)
        for key, runs in mine.items():
            spans.setdefault(key, []).append(runs)
    blocks: list[Block] = []
    found: dict[Key, list[tuple[int, int, int]]] = {}  # (start, stop, block)
    for key, wanted in spans.items():
        for start, stop in _merge(wanted):
            found.setdefault(key, []).append((start, stop, len(blocks)))
            place, width, flipped = key
            moving = Place("d", start)
            sides = ((moving, stop - start), (place, width)) if flipped else ((place, width), (moving, stop - start))
            blocks.append(Block(sides[0][0], sides[0][1], sides[1][0], sides[1][1]))
    products = tuple(
        tuple(tuple(_part(graph, homes, found, a, b, left.looped) for b in right.parts) for a in left.parts)
        for left, right in pairs
    )
    return tuple(blocks), products


def _key(graph: Graph, homes: Homes, a: Read, b: Read, flipped: bool) -> tuple[Key, int, int]:
    fixed, moving = (b, a) if flipped else (a, b)
    place = next((home for home in homes[moving.atom] if home.buffer == "d"), None)
    if place is None:
        raise Refused("the gradient of a matrix depends on no gradient", graph.wheres[moving.atom])
    return (where(graph, homes, fixed), fixed.width, flipped), place.column + moving.start, moving.width


def where(graph: Graph, homes: Homes, part: Read) -> Place:
    """Where a read lies in memory."""
    atom = graph.atoms[part.atom]
    if atom.op == "x":
        return Place("x", part.start)
    if atom.op == "state":
        return Place(f"state{atom.detail}", part.start, "old")
    home = homes[part.atom][0]
    return home._replace(column=home.column + part.start)


def _extend(runs: Runs, start: int, stop: int) -> None:
    if runs and runs[-1][1] == start:
        runs[-1] = (runs[-1][0], stop)
    elif (start, stop) not in runs:
        runs.append((start, stop))


def _merge(products: list[Runs]) -> Runs:
    """The columns of all blocks: those of a product that has several follow each other, others are joined."""
    apart = [run for runs in products for run in runs if len(runs) > 1]
    merged: Runs = []
    for start, stop in sorted({run for runs in products for run in runs if len(runs) == 1}):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return list(dict.fromkeys([*apart, *merged]))


def _part(
    graph: Graph, homes: Homes, found: dict[Key, list[tuple[int, int, int]]], a: Read, b: Read, flipped: bool
) -> Part:
    key, column, width = _key(graph, homes, a, b, flipped)
    start, _, block = next(one for one in found[key] if one[0] <= column and column + width <= one[1])
    fixed = key[1]
    if flipped:
        return Part(block, column - start, width, 0, fixed)
    return Part(block, 0, fixed, column - start, width)
