"""Arithmetic of a traced step: operations element by element, written down on columns."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellwright.step.aten import RULES
from cellwright.step.atoms import Atom, Read, Refs, segments
from cellwright.step.notes import Notes
from cellwright.step.refused import Refused
from cellwright.step.shadow import ROW_BITS

Zeros = NDArray[np.bool_]


def arithmetic(notes: Notes, base: str, args: Any, kwargs: Any, result: Tensor) -> None:
    """An operation of the table of rules."""
    operands = [notes.shadow(value) if isinstance(value, Tensor) else value for value in args]
    shadows = [value for value in operands if isinstance(value, Tensor)]
    axis = notes.shadows.axis([torch.broadcast_to(s, result.shape) for s in shadows])
    if axis is None and notes.shadows.batch in result.shape:  # numbers for every row
        axis = list(result.shape).index(notes.shadows.batch) - result.dim()
    shape = list(result.shape)
    if axis is not None:
        shape[axis] = 1
    numbers = [_flat(notes, value, result, axis) if isinstance(value, Tensor) else value for value in operands]
    try:
        refs = RULES[base](partial(emit, notes, int(np.prod(shape))), *numbers, **kwargs)
    except TypeError:
        raise Refused(f"{base} is given arguments that loops do not know", notes.where()) from None
    columns = torch.from_numpy(refs).view(shape)
    notes.shadows.put(result, columns << ROW_BITS if axis is None else notes.shadows.spread(columns, axis))


def index_put(notes: Notes, base: str, args: Any, kwargs: Any, result: Tensor) -> None:
    """One number in the places of a mask."""
    tensor, places, value = args[:3]
    if len(places) != 1 or places[0].shape != tensor.shape or value.numel() != 1 or any(args[3:]):
        raise Refused("index_put with places that are not one mask of the tensor's shape", notes.where())
    arithmetic(notes, "where", (places[0], value, tensor), {}, result)


def emit(notes: Notes, columns: int, op: str, *operands: Any) -> Refs:
    """References to so many columns of an operation on columns or numbers."""
    refs = [o if isinstance(o, np.ndarray) else np.full(columns, notes.atoms.constant(o)) for o in operands]
    if notes.in_step:
        return notes.atoms.elementwise(op, refs, notes.where())
    zero = np.stack([operand == notes.atoms.constant(0.0) for operand in refs])
    return _emit_derivative(notes, op, refs, zero) if zero.any() else notes.atoms.elementwise(op, refs, "")


def in_memory(notes: Notes, line: Refs) -> tuple[Read, ...]:
    """Reads of columns that lie side by side in memory: numbers and columns apart are copied there."""
    found = []
    for part in segments(line):
        if (part.step != 1 and part.width > 1) or notes.atoms.items[part.atom].op == "const":
            copied = notes.atoms.add(Atom("copy", part.width, (part,)), notes.where())
            part = Read(copied, 0, 1, part.width)
        found.append(part)
    return tuple(found)


def _flat(notes: Notes, shadow: Tensor, result: Tensor, axis: int | None) -> Refs:
    whole = torch.broadcast_to(shadow, result.shape)
    if axis is None:
        alike: Refs = (whole >> ROW_BITS).reshape(-1).numpy()
        return alike
    refs: Refs = notes.shadows.columns(whole, axis).reshape(-1).numpy()
    return refs


def _emit_derivative(notes: Notes, op: str, refs: list[Refs], zero: Zeros) -> Refs:
    """Gradients that are zero stay zero, whatever they are multiplied by, and nothing is added for them."""
    none = np.zeros_like(zero[0])
    still = {"mul": zero.any(0), "div": zero[0], "where": zero[1:].all(0), "neg": zero[0], "copy": zero[0]}
    gone = still.get(op, none)
    first = zero[-1] if op in ("add", "sub") else none  # a + 0, a - 0
    second = zero[0] & ~first if op == "add" else none  # 0 + b
    result = np.where(gone, notes.atoms.constant(0.0), np.where(first, refs[0], refs[-1]))
    rest = ~(gone | first | second)
    if rest.any():
        result[rest] = notes.atoms.elementwise(op, [operand[rest] for operand in refs], "")
    return result
