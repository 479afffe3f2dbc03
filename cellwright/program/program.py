"""Program: a whole sequence as loops and buffers, in frozen values whose str() reads as pseudocode."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cellwright.program.graph import Graph
from cellwright.program.loops import Loop
from cellwright.program.places import Block, Buffer, Part, Place
from cellwright.program.pseudocode import pseudocode
from cellwright.step.tape import Tape


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
        return pseudocode(self)
