"""Watch: the local variables of a step at its return, which carry the names that the cell's author gave."""

from __future__ import annotations

import cProfile
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from torch import Tensor

from cellwright.cells import Cell


@contextmanager
def watched(cell: Cell, see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """While a cell runs, show every tensor among its local variables when it returns, and those of cells in it.

    >>> import torch
    >>> from cellwright.cells import LSTM
    >>> cell, seen = LSTM(3, 5), []
    >>> with watched(cell, lambda name, value: seen.append(name)):
    ...     _ = cell(torch.zeros(2, 3), *cell.initial_state(2))
    >>> seen
    ['x', 'h', 'c', 'i', 'f', 'o', 'g']

    Args:
        cell: the cell, whose `step` is watched, and the `forward` of a module of others in it, `cell.module`.
        see: is told each name and value.
    """
    codes = set(_codes(cell))

    def on_event(frame: FrameType, event: str, arg: Any) -> None:
        if event == "return" and frame.f_code in codes:
            for name, value in frame.f_locals.items():
                if isinstance(value, Tensor):
                    see(name, value)

    before = sys.getprofile()
    sys.setprofile(on_event)
    try:
        yield
    finally:
        sys.setprofile(before if callable(before) or before is None else None)
        if isinstance(before, cProfile.Profile):  # a profiler in C, which only it can put back
            before.enable()


def _codes(cell: Cell) -> Iterator[CodeType]:
    cells = [part for part in cell.modules() if isinstance(part, Cell)]
    foreign = [getattr(type(getattr(part, "module", None)), "forward", None) for part in cells]
    for function in (*(type(part).step for part in cells), *foreign):
        code = getattr(function, "__code__", None)
        if code is not None:
            yield code
