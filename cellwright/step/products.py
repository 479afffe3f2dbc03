"""Products of a traced step: rows times a weight, rows times rows, and sums of such over all rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cellwright.step.arithmetic import emit, in_memory
from cellwright.step.atoms import Atom, Refs, Weight, segments
from cellwright.step.notes import Notes
from cellwright.step.refused import Refused
from cellwright.step.shadow import Mixed
from cellwright.step.sums import note_zeros
from cellwright.step.tape import Entry

MOST_OWN = 64  # results of a product within a row: each becomes a sum of its own


def product(notes: Notes, base: str, args: Any, kwargs: Any, result: Tensor) -> None:
    """mm, and bmm: many at once."""
    left, right = args[:2]
    batched = base == "bmm"
    if not batched:
        left, right, result = (one.unsqueeze(0) for one in (left, right, result))
    a, b = notes.shadows.get(left), notes.shadows.get(right)
    if a is not None and b is not None:
        if batched and notes.shadows.axis([a]) == notes.shadows.axis([b]) == -3:
            _own_product(notes, a, b, result)
        else:
            _sum_product(notes, a, b, result, batched)
        return
    rows = a if a is not None else b
    assert rows is not None
    axis = notes.shadows.axis([rows])
    flipped = a is None  # W @ h.T: the same as (h @ W.T).T
    if axis != (-1 if flipped else -2):
        raise Mixed
    lines = notes.shadows.columns(rows, axis).movedim(axis, -2).squeeze(-2).numpy()  # (batched, K)
    weight = left if flipped else right
    found = [_one_product(notes, line, weight, place, batched, flipped) for place, line in enumerate(lines)]
    refs = torch.from_numpy(np.stack(found)).unsqueeze(axis)  # (batched, 1, N) or (batched, N, 1)
    notes.shadows.put(result, notes.shadows.spread(refs, axis))


def add_product(notes: Notes, base: str, args: Any, kwargs: Any, result: Tensor) -> None:
    """addmm and baddbmm: a product and a sum, each of which is traced in their place."""
    with notes:
        total = (torch.bmm if base == "baddbmm" else torch.mm)(args[1], args[2])
        alpha, beta = kwargs.get("alpha", 1), kwargs.get("beta", 1)
        total = total if alpha == 1 else total * alpha
        total = total if beta == 0 else total + (args[0] if beta == 1 else args[0] * beta)
    notes.shadows.put(result, notes.shadow(total))


def _one_product(notes: Notes, line: Refs, weight: Tensor, place: int, batched: bool, flipped: bool) -> Refs:
    number = notes.value(weight if batched else weight[0])
    if notes.tape.entries[number].summed:
        raise Refused("a sum over the batch flows back into rows", notes.where())
    matrix = Weight(number, (place,) if batched else (), flipped, 0, 0)
    columns = weight.shape[1] if flipped else weight.shape[2]
    if not notes.in_step and _is_zero(notes, line):
        return np.full(columns, notes.atoms.constant(0.0))
    args, details, row = [], [], 0
    for part in in_memory(notes, line):
        args.append(part)
        details.append(matrix._replace(row=row))
        row += part.width
    return notes.atoms.refs(notes.atoms.add(Atom("mm", columns, tuple(args), tuple(details)), notes.where()))


def _own_product(notes: Notes, a: Tensor, b: Tensor, result: Tensor) -> None:
    """A product of two matrices that every row of the batch has of its own: products and sums of columns."""
    if result[0].numel() > MOST_OWN:
        raise Refused(f"a product of two tensors that both differ from row to row, over {MOST_OWN}", notes.where())
    left = notes.shadows.columns(a, -3)[0].numpy()  # (M, K)
    right = notes.shadows.columns(b, -3)[0].numpy()  # (K, N)
    found = []
    for m in range(left.shape[0]):
        for n in range(right.shape[1]):
            line = emit(notes, left.shape[1], "mul", left[m], right[:, n])
            found.append(notes.atoms.refs(notes.atoms.add(Atom("sum", 1, segments(line)), notes.where())))
    refs = torch.from_numpy(np.concatenate(found)).view(1, left.shape[0], right.shape[1])
    notes.shadows.put(result, notes.shadows.spread(refs, -3))


def _sum_product(notes: Notes, a: Tensor, b: Tensor, result: Tensor, batched: bool) -> None:
    if notes.shadows.axis([a]) != -1 or notes.shadows.axis([b]) != -2:
        raise Refused("a product of two tensors that both differ from row to row", notes.where())
    left = notes.shadows.columns(a, -1).squeeze(-1).numpy()  # (batched, M)
    right = notes.shadows.columns(b, -2).squeeze(-2).numpy()  # (batched, N)
    if _is_zero(notes, left) or _is_zero(notes, right) or not notes.bears_gradient(left, right):
        note_zeros(notes, result if batched else result[0])
        return
    first = len(notes.products)
    notes.products += list(zip(left, right, strict=True))
    leaf = ("product", first, len(left) if batched else None)
    notes.note(result if batched else result[0], notes.tape.add(Entry(None, leaf=leaf, summed=True)))


def _is_zero(notes: Notes, columns: Refs) -> bool:
    return bool((columns == notes.atoms.constant(0.0)).all())
