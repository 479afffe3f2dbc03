"""Lift: cells whose equations add x itself, column by column, to values as wide as the state."""

from __future__ import annotations

from torch import Tensor

from cellwright.cells.cell import Cell


class Lift(Cell):
    """A cell that reads x in H columns: as it is where I = H, else times a learned matrix P (I, H).

    >>> [name for name, _ in Lift(3, 5).named_parameters()], list(Lift(5, 5).parameters())
    (['P'], [])

    Papers that write x beside h take both to be equally wide; P is what makes such a cell work for any input.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        if input_size != hidden_size:
            self.add_weight("P", "", "projection of x", input_size, hidden_size)

    def lift(self, x: Tensor) -> Tensor:
        """What x is in H columns."""
        return x if self.input_size == self.hidden_size else x @ self.P  # (B, H)
