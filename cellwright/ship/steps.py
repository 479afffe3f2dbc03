"""Steps: the traced step of a cell; cells built alike, as those of one stack are, share one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cellwright.cells import Cell
from cellwright.errors import ExportError
from cellwright.step import Refused, Step, capture
from cellwright.step.capture import plain

OF_EVERY_MODULE = frozenset(vars(nn.Module()))
Steps = dict[Any, Step]


def step_of(cell: Cell, dtype: torch.dtype, known: Steps) -> Step:
    """The step of a cell, traced unless it is known.

    Raises:
        ExportError: it cannot be traced.
    """
    key = _key(cell)
    try:
        known[key] = known.get(key) or capture(cell, dtype)
    except Refused as refused:
        raise ExportError(
            "a cell is exported by its step, traced for every row alike",
            f"{type(cell).__name__}: {refused}",
            "write that line with other operations; docs/fusing.md says which",
        ) from refused
    return known[key]


def _key(cell: Cell) -> Any:
    """All that a step depends on besides the numbers in its weights."""
    tensors = [(name, one.shape, one.dtype) for name, one in (*cell.named_parameters(), *cell.named_buffers())]
    settings = [
        (path, type(module), name, plain(value))
        for path, module in cell.named_modules()
        for name, value in vars(module).items()
        if name == "training" or name not in OF_EVERY_MODULE or (value and "hooks" in name)
    ]
    return tuple(tensors), tuple(settings)
