"""Around: the products over all rows before and after the loops, which PyTorch makes, and the sums after them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cellwright.kernels.gradients import Gradients
from cellwright.kernels.triton.values import Values
from cellwright.program.places import Place
from cellwright.step.atoms import Read

COMPUTED = {torch.float64: torch.float64}  # in what a type is computed, where not in float32


@dataclass
class Saved:
    """A run: its memory and layout; what forward leaves for backward."""

    T: int
    B: int
    rows: int
    keep: bool
    apart: bool
    memory: dict[str, Tensor]
    x: Tensor

    @property
    def real(self) -> torch.dtype:
        """The type in which it is computed."""
        return COMPUTED.get(self.x.dtype, torch.float32)


class Around:
    """What PyTorch does for the runs of one program."""

    def __init__(self, values: Values, gradients: Gradients) -> None:
        self.values, self.program, self.gradients = values, values.program, gradients

    def products(self, stage: str, number: int, saved: Saved) -> Tensor:
        """The products of a pass over all rows: (rows, slots * width), by PyTorch."""
        loop = self.program.stages[stage][number]
        packed, start, found = saved.memory[f"at_p_{stage}_{number}"], 0, []
        for product in loop.products:
            columns, terms = len(product.slots) * loop.width, []
            for arg in product.inputs:
                matrix = packed[start : start + arg.width * columns].view(arg.width, columns)
                start += arg.width * columns
                terms.append((self._columns(stage, arg, saved), matrix))
            total = terms[0][0] @ terms[0][1]
            for rows, matrix in terms[1:]:
                total = torch.addmm(total, rows, matrix)
            found.append(total)
        return found[0] if len(found) == 1 else torch.cat(found, 1)

    def _columns(self, stage: str, arg: Read, saved: Saved) -> Tensor:
        """What a term of a product reads, of all rows."""
        atom = self.program.graph.atoms[arg.atom]
        assert atom.op not in ("weight", "const")  # a product of weights alone is on the tape
        place = self.values.place(stage, arg.atom)
        start, matrix = place.column + arg.start, self._matrix(place, saved)
        if arg.step == 1:
            return matrix[:, start : start + arg.width].to(saved.x.dtype)
        return matrix[:, [start + arg.step * column for column in range(arg.width)]].to(saved.x.dtype)

    def _matrix(self, place: Place, saved: Saved) -> Tensor:
        """The buffer of a place, (rows, columns): of a state, what every step began with or left."""
        name = f"at_{place.buffer}_{place.when}" if place.buffer.startswith("state") else f"at_{place.buffer}"
        matrix = saved.memory[name]
        return matrix.view(-1, matrix.shape[-1])[: saved.rows]

    def results(self, saved: Saved) -> Tensor:
        """The products and sums after the loops, where `Gradients` looks for them."""
        found = saved.x.new_empty(self.gradients.size)
        for block, to in zip(self.program.blocks, self.gradients.blocks(found), strict=True):
            left = self._matrix(block.left, saved)[:, block.left.column : block.left.column + block.rows]
            right = self._matrix(block.right, saved)[:, block.right.column : block.right.column + block.columns]
            to.copy_((left.to(saved.x.dtype).T @ right.to(saved.x.dtype)).view(to.shape))
        found[self.gradients.sums :] = self._sums(saved).repeat(self.gradients.copies)
        return found

    def _sums(self, saved: Saved) -> Tensor:
        """Every column that is summed over all rows."""
        real = saved.real
        names = {place.buffer for place in self.values.summed.values()}
        totals = {name: saved.memory[f"at_{name}"].sum(0, dtype=real) for name in names}
        atoms = self.program.graph.atoms
        parts = [
            totals[place.buffer][place.column : place.column + atoms[atom].width]
            for atom, place in sorted(self.values.summed.items(), key=lambda one: self.program.sums[one[0]])
        ]
        return torch.cat(parts) if parts else saved.x.new_zeros(0, dtype=real)
