"""Gradients: those of the parameters, from the products and sums that a backward run leaves."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from math import prod
from operator import mul
from typing import Any

import torch
from torch import Tensor

from cellwright.program import Program
from cellwright.program.places import Part
from cellwright.step.tape import Tape


class Leaves(dict[Any, Tensor]):
    """What a step reads besides rows: parameters by name; a constant of the step is itself."""

    def __missing__(self, constant: Tensor) -> Tensor:
        return constant


Strided = tuple[tuple[int, ...], tuple[int, ...], int]
"""Of a tensor in flat memory: its shape, its strides, and where it starts."""
View = Callable[[tuple[int, ...], tuple[int, ...], int], Tensor]
"""Makes that tensor: one without a base or a counter of changes in common with others."""
ALIGNED = 16  # numbers: a block starts at a line of the cache


class Gradients:
    """Where the gradients of one program's parameters come from.

    The products and sums after the loops lie in one piece of memory, block after block, each block's columns in
    segments that are matrices of their own; most gradients are views into it.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.segments = [_segment(program, number) for number in range(len(program.blocks))]
        counts = [-(-block.rows * block.columns // ALIGNED) * ALIGNED for block in program.blocks]
        *self.starts, self.sums = accumulate(counts, initial=0)
        """Where each block starts, and where the sums do."""
        direct = {name: _direct(program.tape, number) for name, number in program.gradients.items()}
        places = {name: self.place(*found) for name, found in direct.items() if found is not None}
        self._places = {name: place for name, place in places.items() if place is not None}
        self.copies, self._shared = self._apart()
        """How often the sums lie there, one time after the other; and parameters that share memory even so."""
        self.size = self.sums + self.copies * program.buffers["sums"].width

    def knows(self, name: str) -> bool:
        """Whether the gradient of a parameter lies in memory in one piece."""
        return name in self._places

    def room(self, name: str, shape: tuple[int, ...]) -> int:
        """Room for the gradient of a parameter that a backend computes from sums and products; where it starts."""
        start = -(-self.size // ALIGNED) * ALIGNED
        self._places[name] = (shape, in_one_piece(shape), start)
        self.size = start + prod(shape)
        return start

    def place(self, leaf: tuple[str, int, Any], flipped: bool = False) -> Strided | None:
        """Where a sum or product lies that is in one piece."""
        kind, number, shape = leaf
        if kind == "sum":
            parts = self.program.batch_sums[number]
            return self._sum_at(parts[0], shape) if len(parts) == 1 and isinstance(parts[0], tuple) else None
        lines = self.program.products[number]
        places = [self._part_at(part, False) for line in lines for part in line]
        whole = _below_each_other(places) if len(lines) == len(places) else _beside_each_other(places, len(lines))
        if whole is None or flipped == self.program.turned[number]:
            return whole
        shape, strides, start = whole
        return shape[::-1], strides[::-1], start

    def _apart(self) -> tuple[int, list[str]]:
        """Move gradients that lie where another's do to a second copy of the sums: both would be changed in place.

        Returns:
            How many copies there are, and the parameters of which a part still lies where another's does.
        """
        width, copies, found = self.program.buffers["sums"].width, 1, []
        taken = torch.zeros(self.sums + 2 * width, dtype=torch.bool)
        for name, (shape, strides, start) in self._places.items():
            moved = start + width if start >= self.sums else start
            if taken.as_strided(shape, strides, start).any():
                if moved == start or taken.as_strided(shape, strides, moved).any():
                    found.append(name)
                else:
                    copies, start = 2, moved
            taken.as_strided(shape, strides, start).fill_(True)
            self._places[name] = (shape, strides, start)
        return copies, found

    def _sum_at(self, part: tuple[int, int], shape: tuple[int, ...]) -> Strided:
        return shape, in_one_piece(shape), self.sums + part[0]

    def _part_at(self, part: Part, flipped: bool) -> Strided:
        width, rows = self.segments[part.block], self.program.blocks[part.block].rows
        segment, column = divmod(part.column, width)
        start = self.starts[part.block] + (segment * rows + part.row) * width + column
        shape, strides = (part.rows, part.columns), (width, 1)
        return (shape[::-1], strides[::-1], start) if flipped else (shape, strides, start)

    def blocks(self, memory: Tensor) -> list[Tensor]:
        """Where the products after the loops belong, each as (rows, segments, columns)."""
        sizes = zip(self.program.blocks, self.segments, self.starts, strict=True)
        return [
            memory.as_strided((b.rows, b.columns // width, width), (width, b.rows * width, 1), start)
            for b, width, start in sizes
        ]

    def views(self, view: View, wanted: list[str]) -> dict[str, Tensor]:
        """The wanted gradients that lie in memory in one piece, or will once backward has run."""
        places = self._places
        return {name: view(*places[name]) for name in wanted if name in places}

    def collect(
        self,
        views: dict[str, Tensor],
        view: View,
        rows: int,
        leaves: Leaves,
        wanted: list[str],
        known: dict[int, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The gradients of the wanted parameters.

        Args:
            views: what `views` gave for them.
            view: into `size` numbers or more: every block, and the sums over all rows of every column that is summed.
            rows: how many rows that were.
            leaves: the parameters.
            wanted: their names.
            known: values of the tape that forward computed.
        """
        for name in self._shared:
            if name in views:
                views[name] = views[name].clone()
        return views if len(views) == len(wanted) else views | self._composed(view, rows, leaves, wanted, known)

    def _composed(
        self, view: View, rows: int, leaves: Leaves, wanted: list[str], known: dict[int, Tensor] | None
    ) -> dict[str, Tensor]:
        """Those that are put together from several pieces, or computed from them."""

        def leaf(name: Any) -> Tensor:
            if not isinstance(name, tuple):
                return leaves[name]
            kind, number, detail = name
            if kind == "sum":
                parts = [self._summed(part, view, rows) for part in self.program.batch_sums[number]]
                return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(detail)
            one = [self._product(number + k, view) for k in range(detail or 1)]
            return one[0].contiguous() if detail is None else torch.stack(one)  # some kernels overlook strides

        given = self.program.gradients
        others = {name: given[name] for name in wanted if name in given and name not in self._places}
        values = self.program.tape.replay(others.values(), leaf, known) if others else {}
        return {name: values[number].clone() for name, number in others.items()}  # in memory that nothing else has

    def _product(self, number: int, view: View) -> Tensor:
        grid = self.program.products[number]
        lines = [[view(*self._part_at(part, False)) for part in line] for line in grid]
        found = _joined([_joined(line, 1) for line in lines], 0)
        return found.t() if self.program.turned[number] else found

    def _summed(self, part: tuple[int, int] | float, view: View, rows: int) -> Tensor:
        if isinstance(part, tuple):
            return view((part[1],), (1,), self.sums + part[0])
        return view((1,), (1,), 0).new_full((1,), part * rows)


def in_one_piece(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a tensor whose rows lie one after the other."""
    return tuple(accumulate(reversed(shape[1:]), mul, initial=1))[::-1] if shape else ()


def _below_each_other(places: list[Strided]) -> Strided | None:
    """Matrices as one, if each begins where the rows of the one before end."""
    (first, columns), strides, start = places[0]
    rows = first
    for shape, others, begins in places[1:]:
        if others != strides or shape[1] != columns or begins != start + rows * strides[0]:
            return None
        rows += shape[0]
    return (rows, columns), strides, start


def _beside_each_other(places: list[Strided], lines: int) -> Strided | None:
    """Matrices of one line as one, if each begins where the columns of the one before end."""
    turned = [(shape[::-1], strides[::-1], start) for shape, strides, start in places]
    found = _below_each_other(turned) if lines == 1 else None
    return None if found is None else (found[0][::-1], found[1][::-1], found[2])


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _direct(tape: Tape, number: int) -> tuple[Any, bool] | None:
    """The sum or product that a gradient is, and whether transposed; None for all that takes more."""
    entry, inputs = tape.entries[number], tape.inputs[number]
    if entry.function is torch.ops.aten.view.default and _is(tape.entries[inputs[0]].leaf, "sum"):
        kind, place, _ = tape.entries[inputs[0]].leaf
        return (kind, place, tuple(entry.args[1])), False
    found = tape.direct(number)
    one = found is not None and (
        (_is(found[0], "sum") and not found[1]) or (_is(found[0], "product") and not found[0][2])
    )
    return found if one else None


def _is(leaf: Any, kind: str) -> bool:
    return isinstance(leaf, tuple) and leaf[0] == kind


def _segment(program: Program, number: int) -> int:
    """The columns that each gradient takes of a block's, if all take as many: they then need not be cut apart."""
    parts = [part for grid in program.products for line in grid for part in line if part.block == number]
    whole = program.blocks[number].columns
    widths = {part.columns for part in parts}
    width = widths.pop() if len(widths) == 1 else whole
    fits = whole % width == 0 and all(part.column % width == 0 for part in parts)
    return width if fits else whole
