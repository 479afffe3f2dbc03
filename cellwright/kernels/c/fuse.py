"""Fuse: a cell compiled once for each way it is used, found again as long as nothing about it changed."""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from cellwright.cells import Cell
from cellwright.errors import BackendError
from cellwright.kernels.c.compiler import find_compiler
from cellwright.kernels.c.run import Fused
from cellwright.program import plan
from cellwright.step import Refused, Step, capture
from cellwright.step.capture import fingerprint

DTYPES = (torch.float32, torch.float64)


class Entry(NamedTuple):
    """A compiled cell, or the reason why there is none."""

    fused: Fused | None
    reason: str
    step: Step | None = None


_entries: WeakKeyDictionary[Cell, dict[tuple[Any, ...], Entry]] = WeakKeyDictionary()
_steps: WeakKeyDictionary[Cell, tuple[tuple[Any, ...], Step]] = WeakKeyDictionary()


def fuse(cell: Cell, dtype: torch.dtype, needs_x: bool) -> Entry:
    """The compiled loops of a cell.

    Args:
        cell: the cell, of any weights.
        dtype: of inputs and weights.
        needs_x: whether the gradient of x will be wanted.
    """
    key = (dtype, fingerprint(cell), _shapes(cell))
    found = _entries.setdefault(cell, {})
    if (*key, needs_x) not in found:
        found[(*key, needs_x)] = _build(cell, dtype, needs_x, key)
    return found[(*key, needs_x)]


def _shapes(cell: Cell) -> tuple[Any, ...]:
    return tuple(tuple(tensor.shape) for tensor in cell.parameters())


def _build(cell: Cell, dtype: torch.dtype, needs_x: bool, key: tuple[Any, ...]) -> Entry:
    if dtype not in DTYPES:
        return Entry(None, f"the loops are made for {' and '.join(map(str, DTYPES))}, not for {dtype}")
    if _hooked(cell):
        return Entry(None, "the cell has hooks, which run once for every step")
    if find_compiler() is None:
        return Entry(None, "no C compiler was found")
    try:
        known = _steps.get(cell)
        if known is None or known[0] != key:
            known = _steps[cell] = (key, capture(cell, dtype))
        program = plan(known[1], cell.state, needs_x)
        fused = Fused(program, repr(cell).splitlines()[0])
        return Entry(fused, "its step was traced, planned and compiled", known[1])
    except Refused as refused:
        return Entry(None, str(refused))
    except BackendError:
        raise


def _hooked(cell: Cell) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for module in cell.modules() for kind in kinds)


def leaves_of(cell: Cell) -> dict[str, Tensor]:
    """All weights of a cell by name, as they are now."""
    return {**dict(cell.named_parameters()), **dict(cell.named_buffers())}
