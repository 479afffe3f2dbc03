"""Watch: the local variables of a step at its return, which carry the names that the cell's author gave."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from torch import Tensor

from cellwright.cells import Cell


@contextmanager
def watched(kind: type[Cell], module: Any, see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """While a cell runs, show every tensor among its local variables when it returns.

    >>> import torch
    >>> from cellwright.cells import LSTM
    >>> cell, seen = LSTM(3, 5), []
    >>> with watched(LSTM, None, lambda name, value: seen.append(name)):
    ...     _ = cell(torch.zeros(2, 3), *cell.initial_state(2))
    >>> seen
    ['x', 'h', 'c', 'i', 'f', 'o', 'g']

    Args:
        kind: the cell's class, whose `step` is watched.
        module: the module of others inside an adapted cell, whose `forward` is watched too; or None.
        see: is told each name and value.
    """
    codes = set(_codes(kind, module))

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
        sys.setprofile(before)


def _codes(kind: type[Cell], module: Any) -> Iterator[CodeType]:
    for function in (kind.step, getattr(type(module), "forward", None)):
        code = getattr(function, "__code__", None)
        if code is not None:
            yield code
