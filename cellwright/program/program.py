"""Program: a whole sequence as loops and buffers, in frozen values whose str() reads as pseudocode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from cellwright.program.graph import Graph
from cellwright.program.loops import Loop
from cellwright.step.tape import Tape


class Place(NamedTuple):
    """Where an atom lies: a buffer and the column it starts at; a state also says old or new."""

    buffer: str
    column: int
    when: str = ""


class Buffer(NamedTuple):
    """Memory of one kind; `width` columns a row.

    sequence: T*B rows. state: one (B, width) for every step and the one before. carry: two of (B, width).
    local: rows of one step. reduction: one number a row and thread. sums: added up over rows. weight: a vector.
    """

    name: str
    kind: str
    width: int
    detail: object = None


class Block(NamedTuple):
    """One product after the loops: columns of one buffer against columns of another, summed over all rows."""

    left: Place
    rows: int
    right: Place
    columns: int


class Part(NamedTuple):
    """Where a part of a gradient stands in the results of the blocks."""

    block: int
    row: int
    rows: int
    column: int
    columns: int


@dataclass(frozen=True)
class Program:
    """All that a backend needs to run a cell over a sequence, forward and backward."""

    graph: Graph
    stages: dict[str, tuple[Loop, ...]]
    homes: dict[int, tuple[Place, ...]]
    locals: dict[str, dict[int, Place]]
    kept: frozenset[int]
    inferred: frozenset[int]  # atoms that lie in memory even where no gradient is wanted
    buffers: dict[str, Buffer]
    states: tuple[str, ...]
    sums: dict[int, int]  # atom: first column in the buffer of sums
    blocks: tuple[Block, ...]
    products: tuple[tuple[tuple[Part, ...], ...], ...]  # of every product, its parts in rows of columns
    batch_sums: tuple[tuple[tuple[int, int] | float, ...], ...]  # of every sum: (column, width) or a number
    tape: Tape
    gradients: dict[str, int]
    widths: tuple[int, ...]
    input_size: int
    output_size: int
    dtype: torch.dtype
    has_y: bool
    needs_x: bool

    def __str__(self) -> str:
        from cellwright.program.pseudocode import pseudocode

        return pseudocode(self)
