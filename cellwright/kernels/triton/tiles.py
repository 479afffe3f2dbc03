"""Tiles: how rows and columns are shared out among the programs of a GPU, and which weights stay on the chip."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from cellwright.kernels.triton.render import slots_of
from cellwright.program.loops import Loop
from cellwright.program.program import Program
from cellwright.program.split import TIMED

HEIGHTS = (16, 32, 64)  # rows of a program in the loops: as few as tensor cores take, as many as registers hold
FLAT_ROWS, FLAT_COLUMNS = 32, 64  # of a program before and after the loops
LEAST_COLUMNS = 8  # of a product
FEW_COLUMNS = 16  # of a program that is one of many
SUMS = 4096  # numbers that a program adds products up in: 32 registers a thread
DEEPEST = 128  # bytes: rows of weights in one product of tiles
ON_CHIP = 0.71  # of the memory on the chip: weights that a program keeps; the rest is for what it multiplies
SMALL = 64 * 1024  # bytes: weights that one program holds alone, and then waits for nobody


class Machine(NamedTuple):
    """What a kernel is laid out for."""

    processors: int
    """Programs that run at the same time for certain."""
    persistent: bool
    """Whether programs can wait for each other: they cannot where one runs after the other, as in the interpreter."""
    chip: int = 227 * 1024
    """Bytes of memory on the chip that a program can have (default: as on an H100)."""


class Tiles(NamedTuple):
    """The layout of one stage."""

    rows: int  # of the batch, of a program
    groups: int  # of rows
    parts: int  # programs that share the columns of a group
    columns: tuple[int, ...]  # of a program, in every pass
    depth: int
    held: bool  # weights stay on the chip
    persistent: bool  # one launch runs all steps

    @property
    def programs(self) -> int:
        return self.groups * self.parts

    @property
    def spread(self) -> int:
        """Parts, as a power of two."""
        return power(self.parts)


@lru_cache
def machine(device: torch.device) -> Machine:
    """What a device is."""
    if device.type != "cuda":
        return Machine(4, False)
    found = torch.cuda.get_device_properties(device)
    chip = getattr(found, "shared_memory_per_block_optin", 48 * 1024)  # what every GPU has, where PyTorch does not say
    return Machine(found.multi_processor_count, True, chip)


def tiles(program: Program, stage: str, rows: int, itemsize: int, on: Machine) -> Tiles:
    """The layout of a stage.

    Rows are cut in groups that never wait for each other; the programs of a group share its columns, as many as the
    machine runs at once. All steps are one launch where every program fits at once; its weights then stay on the chip
    if they fit there. Of the heights that allow that the lowest is taken: a program then reads the fewest rows.

    Args:
        program: the program.
        stage: "before", "forward", "backward" or "after".
        rows: of the batch; before and after the loops, of all steps.
        itemsize: bytes of a weight.
        on: the machine.
    """
    loops = program.stages[stage]
    if stage not in TIMED:
        columns = tuple(min(FLAT_COLUMNS, power(loop.width)) for loop in loops)
        parts = max(-(-loop.width // own) for loop, own in zip(loops, columns, strict=True))
        return Tiles(FLAT_ROWS, max(1, -(-rows // FLAT_ROWS)), parts, columns, 16, False, False)
    heights = [height for height in HEIGHTS if height <= max(power(rows), HEIGHTS[0])]
    found = [_loop(program, stage, height, rows, itemsize, on) for height in heights]
    best = [one for one in found if one.held] or [one for one in found if one.persistent] or found[-1:]
    return best[0]


def _loop(program: Program, stage: str, height: int, rows: int, itemsize: int, on: Machine) -> Tiles:
    """The layout of the steps with so many rows to a group."""
    loops, groups = program.stages[stage], max(1, -(-rows // height))
    most = max(1, on.processors // groups)
    alone = _held(program, stage, tuple(loop.width for loop in loops), 1) * itemsize <= SMALL
    parts = 1 if alone else min(most, -(-max(loop.width for loop in loops) // LEAST_COLUMNS))
    columns = tuple(max(LEAST_COLUMNS, min(power(-(-loop.width // parts)), _most(loop, height))) for loop in loops)
    # Passes as wide share columns alike: what a program carries to its next step it then wrote itself.
    columns = tuple(
        min(own for one, own in zip(loops, columns, strict=True) if one.width == loop.width) for loop in loops
    )
    parts = max(-(-loop.width // own) for loop, own in zip(loops, columns, strict=True))
    depth = min(DEEPEST // itemsize, max(16, power(min(_depths(program, stage), default=16))))
    persistent = on.persistent and groups * parts <= on.processors
    if on.persistent and not persistent:  # launched pass by pass, in any number
        columns = tuple(min(own, FEW_COLUMNS) for own in columns)
        parts = max(-(-loop.width // own) for loop, own in zip(loops, columns, strict=True))
    held = persistent and _held(program, stage, columns, depth) * itemsize <= ON_CHIP * on.chip
    return Tiles(height, groups, parts, columns, depth, held, persistent)


def _most(loop: Loop, height: int) -> int:
    """Columns of a pass that a program can have."""
    slots = sum(slots_of(product) for product in loop.products)
    return SUMS // height // power(max(slots, 1))


def _held(program: Program, stage: str, columns: tuple[int, ...], depth: int) -> int:
    """Numbers of all weights that a program holds, with what fills up its tiles."""
    return sum(
        sum(-(-arg.width // depth) * depth for arg in product.inputs) * slots_of(product) * own
        for loop, own in zip(program.stages[stage], columns, strict=True)
        for product in loop.products
    )


def _depths(program: Program, stage: str) -> list[int]:
    return [arg.width for loop in program.stages[stage] for product in loop.products for arg in product.inputs]


def power(size: int) -> int:
    """The next power of two."""
    return 1 << max(size - 1, 0).bit_length()
