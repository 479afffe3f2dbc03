"""Sums of a traced step: over columns, which become atoms, and over rows, which are left to the tape."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cellwright.step.arithmetic import emit, in_memory
from cellwright.step.aten import SUMS
from cellwright.step.atoms import Atom, segments
from cellwright.step.notes import Notes
from cellwright.step.shadow import Mixed
from cellwright.step.tape import Entry, Value


def total(notes: Notes, base: str, args: Any, kwargs: Any, result: Tensor) -> None:
    """An operation of the list of sums."""
    tensor: Tensor = args[0]
    dims = args[1] if len(args) > 1 else kwargs.get("dim")
    dims = list(range(tensor.dim())) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    places = {dim % tensor.dim() for dim in dims}
    shadow = notes.shadow(tensor)
    axis = notes.shadows.axis([shadow])
    if axis is None:
        raise Mixed
    rows = axis + tensor.dim()
    columns = notes.shadows.columns(shadow, axis)
    inner = sorted(places - {rows})
    if inner and rows in places and base == "sum" and result.numel() == 1:
        _sum_all(notes, columns, sorted(places), result)
        return
    if inner:
        columns = _reduce(notes, SUMS[base], columns, inner)
    count = int(np.prod([tensor.shape[dim] for dim in places]))
    if base == "mean":
        flat = columns.reshape(-1).numpy()
        columns = torch.from_numpy(emit(notes, len(flat), "mul", flat, 1 / count)).view(columns.shape)
    if rows in places:
        if base not in ("sum", "mean"):
            raise Mixed
        _sum_rows(notes, columns, result)
        return
    notes.shadows.put(result, notes.shadows.spread(columns, axis).view(result.shape))


def variance(notes: Notes, base: str, args: Any, kwargs: Any, result: Tensor) -> None:
    """By its definition, which is traced in its place."""
    tensor = args[0]
    dims = args[1] if len(args) > 1 and args[1] is not None else list(range(tensor.dim()))
    kept = list(tensor.shape)
    for dim in dims:
        kept[dim] = 1
    count = tensor.numel() // max(int(np.prod(kept)), 1)
    with notes:
        centred = tensor - tensor.mean(dims, True)
        correction = args[2] if len(args) > 2 else kwargs.get("correction", 1)
        spread = (centred * centred).sum(dims, True) / (count - correction)
    notes.shadows.put(result.view(kept), notes.shadow(spread))


def cumulated(notes: Notes, base: str, args: Any, kwargs: Any, result: Tensor) -> None:
    """A sum that grows from column to column."""
    shadow = notes.shadow(args[0])
    axis = notes.shadows.axis([shadow])
    dim = args[1] % result.dim()
    if axis is None or dim == axis + result.dim():
        raise Mixed
    columns = notes.shadows.columns(shadow, axis).movedim(dim, -1)
    lines = columns.reshape(-1, columns.shape[-1]).numpy()
    found = [notes.atoms.add(Atom("cumsum", len(line), in_memory(notes, line)), notes.where()) for line in lines]
    refs = torch.from_numpy(np.stack([notes.atoms.refs(atom) for atom in found])).view(columns.shape)
    notes.shadows.put(result, notes.shadows.spread(refs.movedim(-1, dim), axis))


def note_zeros(notes: Notes, result: Tensor) -> None:
    """A sum over the rows of what is zero."""
    zeros = Entry(torch.ops.aten.zeros.default, (list(result.shape),), {"dtype": notes.dtype}, summed=True)
    notes.note(result, notes.tape.add(zeros))


def _reduce(notes: Notes, op: str, columns: Tensor, dims: list[int]) -> Tensor:
    rest = [dim for dim in range(columns.dim()) if dim not in dims]
    kept = [1 if dim in dims else columns.shape[dim] for dim in range(columns.dim())]
    lines = columns.permute(*rest, *dims).reshape(int(np.prod(kept)), -1).numpy()
    if not lines.shape[1]:  # a sum over nothing
        return torch.full(kept, notes.atoms.constant(0.0))
    found = [notes.atoms.add(Atom(op, 1, segments(line)), notes.where()) for line in lines]
    return torch.from_numpy(np.concatenate([notes.atoms.refs(atom) for atom in found])).view(kept)


def _sum_all(notes: Notes, columns: Tensor, dims: list[int], result: Tensor) -> None:
    """One number: loops sum rows, column by column, and columns are summed once."""
    found = _rows_summed(notes, columns, tuple(columns.shape))
    if found is None:
        note_zeros(notes, result)
    else:
        args = (Value(found), dims, result.dim() == columns.dim())
        notes.note(result, notes.tape.add(Entry(torch.ops.aten.sum.dim_IntList, args, summed=True)))


def _sum_rows(notes: Notes, columns: Tensor, result: Tensor) -> None:
    found = _rows_summed(notes, columns, tuple(result.shape))
    if found is None:
        note_zeros(notes, result)
    else:
        notes.note(result, found)


def _rows_summed(notes: Notes, columns: Tensor, shape: tuple[int, ...]) -> int | None:
    """The value of the tape that the sum of these columns over rows and steps is; None where it is zero."""
    if not notes.bears_gradient(columns.numpy()):
        return None
    notes.sums.append(columns.reshape(-1).numpy())
    return notes.tape.add(Entry(None, leaf=("sum", len(notes.sums) - 1, shape), summed=True))
