"""Buffers: where the memory of a run lies, and what forward leaves for backward."""

from __future__ import annotations

import dataclasses
from array import array
from typing import Any, NamedTuple

from cellwright.kernels.c.packing import THIRDS
from cellwright.kernels.c.pool import Lent, Piece, Pool
from cellwright.kernels.c.render import Source
from cellwright.program import Program
from cellwright.program.places import Place

LINE = 64  # bytes: buffers start at lines of the cache
CHUNK, GROUP = 96, 32  # rows, as in loops.h
GROUP_BLOCK = 2 * 768  # numbers that a block of a group takes in thirds
THIRDS_ROWS = ((4 << 20, 32), (1 << 20, 20), (1 << 18, 24), (0, 64))
"""Bytes of weights, plain, that a loop reads at every step, or, where it reads none, of all; with as many, rows from
which on products are in thirds."""
THIRDS_WASTE = 1.6  # of blocks that are filled up with zeros
FEW_ROWS = 3  # of a tile that takes more columns
FAR = 5 << 18  # bytes of weights that a core's own cache no longer holds beside all else: tiles fetch what comes next
SHARED = ((9 << 18, 12.0), (1 << 20, 3.0), (1 << 18, 0.5))
"""Bytes of weights that a loop reads at every step; with more, rows a thread up to which columns are shared."""
SHARED_THIRDS = {False: ((13 << 18, 64.0), (3 << 19, 32.0)), True: ((5 << 19, 16.0), (3 << 19, 8.0))}
"""The same in thirds, forward and backward: there gates have more columns, which each thread would split again."""
OURS = ("d", "kept", "hoisted", "scratch")  # matrices that nobody else sees
CROWDED = 256  # columns: rows of float32 1 KiB apart share a quarter, 4 KiB apart a single one, of a cache's places
ODD = 16  # columns more: a line of the cache in float32, two in float64


def kept_apart(program: Program) -> Program:
    """The same program, but rows begin at lines of the cache, and not a power of two apart, in a few places of it."""
    wider = {name: program.buffers[name]._replace(width=_apart(program.buffers[name].width)) for name in OURS}
    return dataclasses.replace(program, buffers={**program.buffers, **wider})


def _apart(width: int) -> int:
    whole = -(-width // ODD) * ODD if width > CROWDED // 2 else width
    return whole + ODD if whole and whole % CROWDED == 0 else whole


def columns_shared(B: int, team: int, weights: int, thirds: bool = False, back: bool = False) -> bool:
    """Whether threads share the columns of every row, with a barrier a pass, or each takes rows of its own.

    With rows of its own a thread never waits, and fetches nothing that others computed. But it reads all weights, and
    few rows take less time than many weights take to come.

    Args:
        B: rows of the batch.
        team: threads.
        weights: bytes that a loop over time reads at every step.
        thirds: whether they are in thirds.
        back: whether that loop goes backward.
    """
    table = SHARED_THIRDS[back] if thirds else SHARED
    most = next((rows for least, rows in table if weights > least), 0.0)
    return team > 1 and team * most >= B


def shares(B: int, team: int, weights: int, thirds: bool) -> tuple[tuple[bool, bool], tuple[bool, bool]]:
    """Whether threads share columns, forward and backward, and whether tiles then have too few rows to fill registers.

    Those get more columns.
    """
    columns = (columns_shared(B, team, weights, thirds), columns_shared(B, team, weights, thirds, back=True))
    forward, backward = (B if shared else -(-B // team) for shared in columns)
    return columns, (forward <= FEW_ROWS, backward <= FEW_ROWS)


def in_thirds(B: int, code: Source) -> bool:
    """Whether products are done in thirds (thirds.h) where the machine can: whatever the threads, for the same bits.

    Args:
        B: rows of the batch.
        code: of the cell.
    """
    plain, parted = (one.each_step or one.size for one in (code.packing, code.thirds))
    least = next(rows for most, rows in THIRDS_ROWS if 4 * plain >= most)
    return least <= B and parted <= THIRDS_WASTE * THIRDS * plain


class Sizes(NamedTuple):
    """What decides the memory of a run."""

    rows: int
    """Of all steps together."""
    B: int
    """Rows of the batch."""
    team: int
    """Threads."""
    keep: bool
    """Whether backward will follow."""
    columns: tuple[bool, bool]
    """Whether threads share columns, forward and backward, by `shares`."""
    apart: bool = False
    """Whether what steps begin with lies apart from what those before them left."""
    thirds: bool = False
    """Whether products are in thirds, by `in_thirds`."""
    few: tuple[bool, bool] = (False, False)
    """Whether tiles of the loops over time meet few rows, forward and backward, by `shares`."""

    @property
    def window(self) -> int:
        """Steps of which what is hoisted is made and kept at once: one where threads have rows of their own."""
        if self.keep:
            return self.rows + 1
        return max(self.team * CHUNK // max(self.B, 1), 1) if self.columns[0] else 1


class Layout:
    """Where every buffer of a run lies in one piece of memory, and the numbers in the argument of its call."""

    def __init__(self, program: Program, code: Source, contract: Any, sizes: Sizes) -> None:
        self.sizes = sizes
        self.depths = [self._depth(program, place) for place in range(len(program.widths))]
        self.scratch_rows = max(sizes.B, sizes.team * CHUNK)
        self.parted = self._parted(code.thirds.blocks) if sizes.thirds else 0
        self.size = 0
        self.offsets: dict[str, int] = {}
        self.counts = self._counts(program, code)
        last = _needed_last(program)
        for name in sorted(self.counts, key=lambda name: name not in last):
            self._append(name, self.counts[name], program.dtype.itemsize)
        if sizes.keep:
            rest = [name for name in self.counts if name not in last]
            scratch = _contract_scratch(program, contract, sizes)
            self._overlay("contract", scratch, rest, program.dtype.itemsize)
        self.blocks: list[tuple[Any, ...]] | None = None
        """The products after the loops, once a run has had them."""
        self.last: tuple[Any, array[int], array[int]] = (None, array("q"), array("q"))
        """What the last run's argument followed from, that argument, and where what steps begin with lies apart."""

    def _append(self, name: str, count: int, itemsize: int) -> None:
        self.offsets[name] = self.size * itemsize
        self.size += -(-count * itemsize // LINE) * LINE // itemsize

    def _overlay(self, name: str, count: int, others: list[str], itemsize: int) -> None:
        """A buffer for when these others, the last ones, are needed no more."""
        start = min((self.offsets[other] for other in others), default=self.size * itemsize)
        self.offsets[name], self.size = start, max(self.size, start // itemsize + count)

    def _depth(self, program: Program, place: int) -> int:
        """Rows of a state: those of all steps and those before, or those of two steps in turn."""
        shown = place == 0 and not program.has_y  # y is this buffer, and the user's
        return self.sizes.B + (self.sizes.rows if self.sizes.keep or shown else self.sizes.B)

    def _parted(self, blocks: tuple[int, int]) -> int:
        """How many numbers the rows of a pass take in thirds, of one thread: it may have all, where fewer come."""
        groups = [-(-rows // GROUP) for rows in (self.sizes.B, max(self.sizes.B, CHUNK))]
        return max(count * n * GROUP_BLOCK for count, n in zip(groups, blocks, strict=True))

    def _counts(self, program: Program, code: Source) -> dict[str, int]:
        """How many numbers each buffer takes."""
        rows, B, team, keep, _, apart, *_ = self.sizes
        widths = {name: buffer.width for name, buffer in program.buffers.items()}
        counts: dict[str, int] = {}
        for place, depth in enumerate(self.depths):
            if place or program.has_y:
                counts[f"state{place}"] = depth * widths[f"state{place}"]
            if apart:
                counts[f"old{place}"] = (rows if keep else B) * widths[f"state{place}"]
        used = {home.buffer for atom in program.inferred for home in program.homes.get(atom, ())}
        for name in ("d", "kept", "hoisted"):
            if widths[name] and (keep or name in used):
                counts[name] = min(rows, self.sizes.window * B) * widths[name]
        counts["scratch"] = self.scratch_rows * widths["scratch"]
        counts["parted"] = team * self.parted
        counts["reductions"] = len(code.reductions) * team * self.scratch_rows
        if keep:
            for place, width in enumerate(program.widths):
                counts[f"dstate{place}"] = 2 * B * width
            counts["sum"] = 2 * team * widths["sums"]
        return {name: count for name, count in counts.items() if count}

    def places(self, start: int, names: tuple[str, ...]) -> array[int]:
        """The addresses of these buffers in memory from `start` on; 0 for those that lie elsewhere or nowhere."""
        return array("q", (start + self.offsets[name] if name in self.offsets else 0 for name in names))


def _contract_scratch(program: Program, contract: Any, sizes: Sizes) -> int:
    """How many numbers of scratch the products over all rows need."""
    places = [place for block in program.blocks for place in (block.left, block.right)]
    number = {matrix: n for n, matrix in enumerate(dict.fromkeys((one.buffer, one.when) for one in places), 1)}

    def matrix(place: Place) -> tuple[int, int]:
        """An address, as far from others as in a run where they lie in one matrix, and the numbers of a row."""
        start = number[place.buffer, place.when] << 40
        return start + place.column * program.dtype.itemsize, program.buffers[place.buffer].width

    found = array("q")
    for one in program.blocks:
        found.extend((*matrix(one.left), *matrix(one.right), 0, one.rows, one.columns, one.columns))
    return int(contract(found.buffer_info()[0], len(program.blocks), sizes.rows, None, None, 0, sizes.team))


def _needed_last(program: Program) -> set[str]:
    """The buffers that are still read once all loops and sums are done: by the products over all rows."""
    operands = {place.buffer for block in program.blocks for place in (block.left, block.right)}
    return operands | {name.replace("state", "old") for name in operands} | {"sum"}


class Saved:
    """What a forward run leaves for the backward one; its memory goes back for the next run when it ends."""

    def __init__(self, pool: Pool, memory: Piece, layout: Layout, weights: Any, packed: Any) -> None:
        self._pool, self._weights = pool, weights
        self.memory, self.layout, self.packed = memory, layout, packed
        self.results: Lent  # where backward leaves products and sums, for good; until then packed weights
        self.barrier = array("q", bytes(256))
        self.states: array[int] = array("q")
        self.old: array[int] = array("q")  # of every state, what steps begin with, where that lies apart
        self.argument: array[int] = array("q")
        self.held: tuple[Any, ...] = ()  # what its addresses point into

    def __del__(self) -> None:
        self._pool.give(self.memory)
        self._weights.give(self.packed, self.layout.sizes)
