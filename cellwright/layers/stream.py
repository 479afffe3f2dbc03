"""Stream: a layer one step at a time, its state carried, for what must answer at once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

from cellwright.cells import Cell, Feed
from cellwright.errors import SettingError, ShapeError
from cellwright.kernels import Stepper, stepper

State = tuple[Tensor, ...]


class Stream:
    """A stack of cells that reads one step after the other and remembers its state.

    It runs on the weights as they were when it was made, as in evaluation, and keeps nothing for a backward.

    Args:
        cells: of every layer: the cell, its weights by name, the state to begin with (None: zeros).
        backend: as of the layer.
        batch_size: rows B of every step.
    """

    def __init__(
        self, cells: Sequence[tuple[Cell, dict[str, Tensor], State | None]], backend: str, batch_size: int
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise SettingError("batch_size is a whole number of at least 1", repr(batch_size), "write batch_size=1")
        self.batch_size, self.input_size = batch_size, cells[0][0].input_size
        self._steppers: list[tuple[Stepper, Cell | None]] = []
        with torch.no_grad():
            for cell, weights, first in cells:
                if cell.training and type(cell).feed is not Cell.feed:
                    cell = copy.deepcopy(cell).eval()
                state = cell.initial_state(batch_size, next(iter(weights.values()))) if first is None else first
                step = stepper(cell, weights, backend, state)
                self._steppers.append((step, None if cell.fed_size == cell.input_size else cell))
        self._dtype = next(iter(cells[0][1].values())).dtype

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """The output of the next step.

        Args:
            x: (B, I), or (I,) where there is one row.

        Returns:
            y: (B, O), or (O,).
        """
        alone = x.dim() == 1 and self.batch_size == 1
        rows = x.unsqueeze(0) if alone else x
        if rows.shape != (self.batch_size, self.input_size) or x.dtype != self._dtype:
            raise ShapeError(
                f"a step of this stream is ({self.batch_size}, {self.input_size}) {self._dtype}",
                f"{tuple(x.shape)} {x.dtype}",
                f"pass one step of every sequence, or make a stream with batch_size={len(rows)}",
            )
        for step, feeder in self._steppers:
            rows = step(rows if feeder is None else feeder.feed(Feed(rows.unsqueeze(0))).x[0])
        return rows[0] if alone else rows

    @property
    def state(self) -> list[State]:
        """The states of every layer, each (B, H): copies. Assigning to it goes on from other ones."""
        return [tuple(s.clone() for s in step.state) for step, _ in self._steppers]

    @state.setter
    def state(self, state: Sequence[State]) -> None:
        for (step, _), given in zip(self._steppers, state, strict=True):
            for now, new in zip(step.state, given, strict=True):
                now.copy_(new)

    def reset(self, rows: Tensor | None = None) -> None:
        """Begin anew, from the first state.

        Args:
            rows: bool (B,), which rows; None: all.
        """
        for step, _ in self._steppers:
            for now, first in zip(step.state, step.first, strict=True):
                now.copy_(first if rows is None else torch.where(rows.unsqueeze(1), first, now))


def refuse_stream() -> NoReturn:
    """Say why a bidirectional layer does not stream."""
    raise SettingError(
        "a stream reads forward: the backward half of a bidirectional layer begins at the end of a sequence",
        "bidirectional=True",
        "stream a layer with bidirectional=False, or run whole sequences",
    )
