"""Fuse: a cell compiled once for each way it is used, found again as long as nothing about it changed."""

from __future__ import annotations

import copy
from operator import is_
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

DTYPES = (torch.float32, torch.float64)


class Entry(NamedTuple):
    """A compiled cell, or the reason why there is none."""

    fused: Fused | None
    reason: str
    step: Step | None = None


class Seen(NamedTuple):
    """Of a cell: all that its step depends on besides the numbers in its weights, and the weights by name."""

    key: tuple[Any, ...]
    leaves: dict[str, Tensor]


PLAIN = (int, float, bool, str, type(None), tuple, torch.dtype)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_entries: WeakKeyDictionary[Cell, dict[tuple[Any, ...], Entry]] = WeakKeyDictionary()
_looks: WeakKeyDictionary[Cell, Look] = WeakKeyDictionary()
_steps: WeakKeyDictionary[Cell, tuple[tuple[Any, ...], Step]] = WeakKeyDictionary()


def fuse(cell: Cell, seen: Seen, dtype: torch.dtype, needs_x: bool) -> Entry:
    """The compiled loops of a cell.

    Args:
        cell: the cell, of any weights.
        seen: what `look` saw of it.
        dtype: of inputs and weights.
        needs_x: whether the gradient of x will be wanted.
    """
    key = (dtype, seen.key)
    found = _entries.setdefault(cell, {})
    if (key, needs_x) not in found:
        found[key, needs_x] = _build(cell, seen, dtype, needs_x, key)
    return found[key, needs_x]


def look(cell: Cell) -> Seen:
    """What there is to see of a cell; walks through its modules only where something in them is another object."""
    before = _looks.get(cell)
    if before is None or before.changed():
        before = _looks[cell] = Look(cell)
    return before.seen


class Look:
    """What was seen of a cell, and how to tell that it still is so."""

    def __init__(self, cell: Cell) -> None:
        self.seen = _walk(cell)
        modules = list(cell.modules())
        tables: list[dict[str, Any]] = [m.__dict__ for m in modules]
        tables += [table for m in modules for table in (m._parameters, m._buffers, m._modules)]
        self.tables = [(table, tuple(table), tuple(table.values())) for table in tables]
        self.hooks = [getattr(module, key) for module in modules for key in HOOKS]
        self.shapes = [tensor.shape for tensor in self.seen.leaves.values()]
        self.hooked = any(self.hooks)

    def changed(self) -> bool:
        """Whether another object, name, shape or hook has come into the cell."""
        for table, names, values in self.tables:
            if tuple(table) != names or not all(map(is_, table.values(), values)):
                return True
        shapes = [tensor.shape for tensor in self.seen.leaves.values()]
        return shapes != self.shapes or self.hooked or any(self.hooks)


def _walk(cell: Cell) -> Seen:
    """What there is to see of a cell, in one walk through its modules."""
    leaves: dict[str, Tensor] = {}
    marks: list[Any] = []
    known: set[int] = set()
    for name, module in cell.named_modules():
        prefix = f"{name}." if name else ""
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and id(tensor) not in known:
                known.add(id(tensor))
                leaves[prefix + key] = tensor
                marks += (prefix + key, tensor.shape)
        for key, value in module.__dict__.items():
            if key[0] != "_":
                marks += (key, value if type(value) in PLAIN else id(value))
            elif key in HOOKS and value:
                marks += (name, key)
    return Seen(tuple(marks), leaves)


def _build(cell: Cell, seen: Seen, dtype: torch.dtype, needs_x: bool, key: tuple[Any, ...]) -> Entry:
    if dtype not in DTYPES:
        return Entry(None, f"the loops are made for {' and '.join(map(str, DTYPES))}, not for {dtype}")
    if any(key in HOOKS for key in seen.key if isinstance(key, str)):
        return Entry(None, "the cell has hooks, which run once for every step")
    if find_compiler() is None:
        return Entry(None, "no C compiler was found")
    try:
        known = _steps.get(cell)
        if known is None or known[0] != key:
            known = _steps[cell] = (key, capture(_real(cell), dtype))
        program = plan(known[1], cell.state, needs_x)
        fused = Fused(program, repr(cell).splitlines()[0])
        return Entry(fused, "its step was traced, planned and compiled", known[1])
    except Refused as refused:
        return Entry(None, str(refused))
    except BackendError:
        raise


def _real(cell: Cell) -> Cell:
    """The cell, or one like it with numbers in its weights: a step is traced on real ones, whatever they are."""
    if not any(parameter.is_meta for parameter in cell.parameters()):
        return cell
    real = copy.deepcopy(cell).to_empty(device="cpu")
    dice = torch.Generator().manual_seed(0)  # and not the user's
    with torch.no_grad():
        for parameter in real.parameters():
            parameter.normal_(generator=dice)
    return real
