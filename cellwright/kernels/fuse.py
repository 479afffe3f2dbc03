"""Fuse: a cell compiled once for each way it is used, found again as long as nothing about it changed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from operator import is_
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from cellwright.cells import Cell
from cellwright.errors import BackendError
from cellwright.kernels.function import Fused
from cellwright.kernels.readings import Readings, mark
from cellwright.program import Program, plan
from cellwright.step import Refused, Step, capture


class Target(NamedTuple):
    """A backend that compiles programs."""

    name: str
    dtypes: tuple[torch.dtype, ...]
    """Of inputs and weights. Half ones are traced as the float32 that is computed in."""
    missing: Callable[[], str | None]
    """What this machine lacks for it, in words."""
    make: Callable[[Program, str], Fused]
    """Compiles a program with a title."""


class Entry(NamedTuple):
    """A compiled cell, or the reason why there is none."""

    fused: Fused | None
    reason: str
    step: Step | None = None


class Seen(NamedTuple):
    """Of a cell: all that its step depends on besides the numbers in its weights, and the weights by name."""

    key: tuple[Any, ...]
    leaves: dict[str, Tensor]
    choices: dict[Any, Any]
    """What was chosen to run it, as long as all that stays as it is."""


OFTEN, MOST_KEPT = 8, 32  # settings of one cell: when to say something, and how many stay compiled
CHANGING = (
    "a cell is compiled anew for every value of its settings (attributes, globals, what closures hold); {} has had {}; "
    "what changes often is quick as a buffer that is changed in place, or as columns of x"
)
HALVES = (torch.float16, torch.bfloat16)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_entries: WeakKeyDictionary[Cell, dict[tuple[Any, ...], Entry]] = WeakKeyDictionary()
_looks: WeakKeyDictionary[Cell, Look] = WeakKeyDictionary()
_steps: WeakKeyDictionary[Cell, tuple[tuple[Any, ...], Step]] = WeakKeyDictionary()


def fuse(target: Target, cell: Cell, seen: Seen, dtype: torch.dtype, needs_x: bool) -> Entry:
    """The compiled loops of a cell.

    Args:
        target: which backend compiles it.
        cell: the cell, of any weights.
        seen: what `look` saw of it.
        dtype: of inputs and weights.
        needs_x: whether the gradient of x will be wanted.
    """
    key = (target.name, needs_x, dtype, seen.key)
    found = _entries.setdefault(cell, {})
    entry = found.get(key)
    if entry is None:
        entry = found[key] = _build(target, cell, seen, dtype, needs_x)
        if len({one[-1] for one in found}) == OFTEN:
            warnings.warn(CHANGING.format(cell.in_one_line(), OFTEN), stacklevel=2)
        while len(found) > MOST_KEPT:
            found.pop(next(iter(found)))
    return entry


def look(cell: Cell) -> Seen:
    """What there is to see of a cell; walks through its modules only where something in them is another object."""
    before = _looks.get(cell)
    if before is None or before.changed():
        before = _looks[cell] = Look(cell)
    return before.seen


class Look:
    """What was seen of a cell, and how to tell that it still is so."""

    def __init__(self, cell: Cell) -> None:
        readings = Readings(cell)
        self.readings = readings.tables
        self.seen = _walk(cell, readings.marks)
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
        for read, values in self.readings:
            now = read()
            if len(now) != len(values) or not all(map(is_, now, values)):
                return True
        shapes = [tensor.shape for tensor in self.seen.leaves.values()]
        return shapes != self.shapes or self.hooked or any(self.hooks)


def _walk(cell: Cell, settings: list[tuple[str, Any]]) -> Seen:
    """What there is to see of a cell, in one walk through its modules, besides settings elsewhere."""
    leaves: dict[str, Tensor] = {}
    marks: list[Any] = [*settings]
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
                marks += (key, mark(value))
            elif key in HOOKS and value:
                marks += (name, key)
    return Seen(tuple(marks), leaves, {})


def _build(target: Target, cell: Cell, seen: Seen, dtype: torch.dtype, needs_x: bool) -> Entry:
    if dtype not in target.dtypes:
        return Entry(None, f"the loops are made for {' and '.join(map(str, target.dtypes))}, not for {dtype}")
    if any(key in HOOKS for key in seen.key if isinstance(key, str)):
        return Entry(None, "the cell has hooks, which run once for every step")
    if (lacking := target.missing()) is not None:
        return Entry(None, lacking)
    traced = dtype if dtype == torch.float64 else torch.float32
    key = (traced, seen.key)
    try:
        known = _steps.get(cell)
        if known is None or known[0] != key:
            known = _steps[cell] = (key, capture(_real(cell, traced), traced))
        program = plan(known[1], cell.state, needs_x)
        fused = target.make(program, cell.in_one_line())
        return Entry(fused, "its step was traced, planned and compiled", known[1])
    except Refused as refused:
        return Entry(None, str(refused))
    except BackendError:
        raise


def _real(cell: Cell, dtype: torch.dtype) -> Cell:
    """The cell, or one like it, on the CPU, in this type, with numbers in its weights: whichever, they are traced."""
    tensors = [*cell.parameters(), *cell.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        cell = copy.deepcopy(cell).to_empty(device="cpu")
        dice = torch.Generator().manual_seed(0)  # and not the user's
        with torch.no_grad():
            for parameter in cell.parameters():
                parameter.normal_(generator=dice)
    if any(
        (tensor.is_floating_point() and tensor.dtype in HALVES) or tensor.device.type != "cpu" for tensor in tensors
    ):
        return copy.deepcopy(cell).to("cpu", dtype)
    return cell
