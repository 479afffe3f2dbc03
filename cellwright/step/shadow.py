"""Shadows: what every element of a traced tensor is, kept per storage, so that views and writes need no rules.

A shadow is an int64 tensor laid over a tensor's storage. An element holds (reference to a column) << 12 | (row + 1),
or row 0 where it is the same for every row of the batch. Views share the storage, hence the shadow.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cellwright.step.atoms import Refs

ROW_BITS = 12
ROW_MASK = (1 << ROW_BITS) - 1


class Mixed(Exception):  # noqa: N818
    """The rows of a batch are not computed independently of each other in the same way."""


class Shadows:
    """The shadows of all tensors of one trace, which runs with `batch` rows."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self._of: dict[int, tuple[Tensor, Tensor]] = {}  # by storage: a tensor that keeps it alive, and the shadow

    def get(self, tensor: Tensor) -> Tensor | None:
        """The shadow of a tensor, of its shape; None where nothing of it comes from a row."""
        kept = self._of.get(tensor.untyped_storage().data_ptr())
        if kept is None:
            return None
        return kept[1].as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())

    def put(self, tensor: Tensor, shadow: Tensor) -> None:
        """Write a shadow over a tensor, through which all that share its storage see it."""
        place = tensor.untyped_storage().data_ptr()
        if place not in self._of:
            elements = tensor.untyped_storage().nbytes() // tensor.element_size()
            self._of[place] = (tensor, torch.full((elements,), -1, dtype=torch.int64))
        spread = self._of[place][1].as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
        spread.copy_(shadow)

    def rows(self, refs: Refs) -> Tensor:
        """A fresh shadow (batch, columns) of these columns."""
        numbers = torch.arange(1, self.batch + 1).unsqueeze(1)
        return (torch.from_numpy(refs).unsqueeze(0) << ROW_BITS) | numbers

    def axis(self, shadows: list[Tensor]) -> int | None:
        """Which dimension (counted from the last, negative) runs over the rows; None where none does."""
        for shadow in shadows:
            for dim in range(-shadow.dim(), 0):
                if shadow.shape[dim] == self.batch and (shadow & ROW_MASK).any():
                    return dim
        for shadow in shadows:  # numbers for every row, as the zeros that are the derivative of a step
            for dim in range(-shadow.dim(), 0):
                if shadow.shape[dim] == self.batch:
                    return dim
        return None

    def columns(self, shadow: Tensor, axis: int) -> Tensor:
        """The references of one row, with the dimension of the rows kept at size 1; every row must be alike."""
        places = [1] * shadow.dim()
        places[axis] = self.batch
        first = shadow.narrow(axis, 0, 1)
        row = first & ROW_MASK  # 1, or 0 where it is the same for every row
        if (row > 1).any() or not torch.equal(shadow, first + row * torch.arange(self.batch).view(places)):
            raise Mixed
        return first >> ROW_BITS

    def spread(self, columns: Tensor, axis: int) -> Tensor:
        """The shadow of columns (their dimension `axis` has size 1) over all rows."""
        places = [1] * columns.dim()
        places[axis] = self.batch
        return (columns << ROW_BITS) | torch.arange(1, self.batch + 1).view(places)
