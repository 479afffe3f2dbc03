"""Gradients: those of the parameters, from the products and sums that a backward run leaves."""

from __future__ import annotations

from collections.abc import Sequence
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


class Gradients:
    """Where the gradients of one program's parameters come from."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._direct = {name: _direct(program.tape, number) for name, number in program.gradients.items()}
        self.segments = [_segment(program, number) for number in range(len(program.blocks))]

    def results(self, like: Tensor) -> list[Tensor]:
        """Memory for the products after the loops: (segments, rows, columns) each."""
        sizes = zip(self.program.blocks, self.segments, strict=True)
        return [like.new_empty(block.columns // width, block.rows, width) for block, width in sizes]

    def collect(
        self, results: list[Tensor], sums: Tensor, rows: int, leaves: Leaves, wanted: list[str]
    ) -> dict[str, Tensor]:
        """The gradients of the wanted parameters.

        Args:
            results: what `results` gave, filled.
            sums: over all rows, of every column that is summed.
            rows: how many rows that were.
            leaves: the parameters.
            wanted: their names.
        """
        split = [result.unbind() for result in results]

        def leaf(name: Any) -> Tensor:
            if not isinstance(name, tuple):
                return leaves[name]
            kind, number, detail = name
            if kind == "sum":
                return self._sum(number, detail, sums, rows)
            one = [self._product(number + k, split, self.program.turned[number + k]) for k in range(detail or 1)]
            return one[0].contiguous() if detail is None else torch.stack(one)  # some kernels overlook strides

        found: dict[str, Tensor] = {}
        others: dict[str, int] = {}
        for name in wanted:
            direct = self._direct.get(name)
            if direct is None:
                if name in self.program.gradients:
                    others[name] = self.program.gradients[name]
                continue
            (kind, number, detail), flipped = direct
            if kind == "sum":
                found[name] = self._sum(number, detail, sums, rows)
            else:
                found[name] = self._product(number, split, flipped != self.program.turned[number])
        values = self.program.tape.replay(others.values(), leaf) if others else {}
        return found | {name: values[number] for name, number in others.items()}

    def _sum(self, number: int, shape: tuple[int, ...], sums: Tensor, rows: int) -> Tensor:
        parts = [_summed(part, sums, rows) for part in self.program.batch_sums[number]]
        found = parts[0] if len(parts) == 1 else torch.cat(parts)
        return found if found.shape == shape else found.view(shape)

    def _product(self, number: int, split: list[tuple[Tensor, ...]], flipped: bool) -> Tensor:
        found = self._assemble(self.program.products[number], split)
        return found.t() if flipped else found

    def _assemble(self, parts: tuple[tuple[Part, ...], ...], split: list[tuple[Tensor, ...]]) -> Tensor:
        lines = []
        for line in parts:
            cells = [self._cell(part, split[part.block]) for part in line]
            lines.append(cells[0] if len(cells) == 1 else torch.cat(cells, 1))
        return lines[0] if len(lines) == 1 else torch.cat(lines)

    def _cell(self, part: Part, segments: Sequence[Tensor]) -> Tensor:
        width = self.segments[part.block]
        found = segments[part.column // width]
        if part.columns != width:
            found = found[:, part.column : part.column + part.columns]
        return found if part.rows == found.shape[0] else found[part.row : part.row + part.rows]


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


def _summed(part: tuple[int, int] | float, sums: Tensor, rows: int) -> Tensor:
    if isinstance(part, tuple):
        return sums[part[0] : part[0] + part[1]]
    return sums.new_full((1,), part * rows)
