"""States: those of all layers and directions, as people pass them round, and as each cell takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cellwright.errors import ShapeError
from cellwright.layers.sequences import Batch, State


class States(NamedTuple):
    """How the states of a layer look from outside: each one tensor (L*D, B, H), or where layers have
    different sizes a tuple with a tensor (D, B, H) for each layer; without B where there is no batch."""

    names: tuple[str, ...]
    widths: tuple[tuple[int, ...], ...]
    """Of every cell, layer after layer, the columns of its states."""
    directions: int

    def parts(self) -> list[slice]:
        """Which cells stand in one tensor."""
        count = len(self.widths)
        size = count if len(set(self.widths)) == 1 else self.directions
        return [slice(start, start + size) for start in range(0, count, size)]

    def pack(self, last: list[State], batch: Batch, batched: bool) -> Any:
        """The states of every cell, each (1, B, H), as people get them."""
        packed = [self._joined([cell[place] for cell in last], batch, batched) for place in range(len(self.names))]
        return packed[0] if len(packed) == 1 else tuple(packed)

    def _joined(self, cells: list[Tensor], batch: Batch, batched: bool) -> Any:
        found = []
        for part in [slice(None)] if len(cells) == 1 else self.parts():
            tall = torch.cat(cells[part]) if len(cells[part]) > 1 else cells[part][0]  # (L*D, B, H)
            tall = tall if batch.back is None else tall.index_select(1, batch.back)
            found.append(tall if batched else tall.squeeze(1))
        return found[0] if len(found) == 1 else tuple(found)

    def unpack(self, given: Any, batch: Batch, batched: bool) -> list[State]:
        """The states of every cell from those that people passed.

        Raises:
            ShapeError: they are of another shape or type.
        """
        states = (given,) if len(self.names) == 1 else given
        tall = [list(self._tensors(state)) for state in states]
        if not self.fit(states, batch.x, batch.rows() if batched else None):
            self._refuse(tall, batch, batched)
        if not batched:
            tall = [[one.unsqueeze(1) for one in state] for state in tall]
        if batch.order is not None:
            tall = [[one.index_select(1, batch.order) for one in state] for state in tall]
        by_cell = [[row for one in state for row in one.unbind(0)] for state in tall]
        return list(zip(*by_cell, strict=True))

    def shapes(self, rows: int | None) -> list[list[tuple[int, ...]]]:
        """Of every state, the shapes of its tensors for so many rows B; None: without a batch."""
        batch = () if rows is None else (rows,)
        parts = [self.widths[part] for part in self.parts()]
        return [[(len(part), *batch, part[0][place]) for part in parts] for place in range(len(self.names))]

    def fit(self, states: Any, like: Tensor, rows: int | None) -> bool:
        """Whether states have the shapes, type and device that they need."""
        wanted = self.shapes(rows)
        if not isinstance(states, (tuple, list)) or len(states) != len(wanted):
            return False
        for state, shapes in zip(states, wanted, strict=True):
            if isinstance(state, Tensor) != (len(shapes) == 1):
                return False
            found = list(self._tensors(state))
            if [tuple(one.shape) for one in found] != shapes or any(one.dtype != like.dtype for one in found):
                return False
        return True

    @staticmethod
    def _tensors(state: Any) -> Iterator[Tensor]:
        if isinstance(state, Tensor):
            yield state
        elif isinstance(state, (tuple, list)):
            yield from (one for one in state if isinstance(one, Tensor))

    def _refuse(self, came: Sequence[Sequence[Tensor]], batch: Batch, batched: bool) -> None:
        wanted = [shape for state in self.shapes(batch.rows() if batched else None) for shape in state]
        each = f"each of shape {wanted[0]}" if len(set(wanted)) == 1 else f"of shapes {wanted}"
        raise ShapeError(
            f"the state is ({', '.join(self.names)}), {each} and {batch.x.dtype}",
            f"shapes {', '.join(f'{tuple(one.shape)} {one.dtype}' for state in came for one in state)}",
            "pass the state that a call before returned, or None for zeros",
        )
