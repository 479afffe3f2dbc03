"""Inputs: what a layer is given, checked, in the type of its weights, and with time first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from cellwright.cells import Cell
from cellwright.errors import ShapeError
from cellwright.layers.sequences import Batch, check_resets, from_lengths, from_packed, from_resets


def batch_of(
    cell: Cell,
    batch_first: bool,
    x: Tensor | PackedSequence,
    lengths: Tensor | Sequence[int] | None,
    resets: Tensor | None,
) -> tuple[Batch, bool]:
    """What a layer that begins with this cell runs on, and whether it has a batch at all.

    Raises:
        ShapeError: x, lengths or resets do not fit the cell, or each other.
    """
    x = cast(cell, x)
    if isinstance(x, PackedSequence):
        _check_columns(cell, x.data, "a PackedSequence of rows (N, I)")
        if lengths is not None:
            raise ShapeError("a PackedSequence knows its lengths", "lengths= beside it", "leave lengths out")
        check_resets(resets, tuple(x.data.shape[:1]), x.data)
        return from_packed(x, resets), True
    batched = _check_input(cell, batch_first, x)
    if resets is not None:
        check_resets(resets, tuple(x.shape[:-1]), x)
    if lengths is not None and not batched:
        raise ShapeError("lengths are those of a batch", "x (T, I) without one", "cut x itself: x[:length]")
    if resets is not None:
        resets = _to_time_first(resets, batched, batch_first)  # (T, B)
    x = _to_time_first(x, batched, batch_first)  # (T, B, I)
    if lengths is not None:
        return from_lengths(x, lengths, resets), batched
    return (Batch(x) if resets is None else from_resets(x, resets)), batched


def cast(cell: Cell, x: Any) -> Any:
    """Under autocast on the CPU the loops run in the type of the weights."""
    if not torch.is_autocast_enabled("cpu"):
        return x
    floats = isinstance(x, (Tensor, PackedSequence)) and (x if isinstance(x, Tensor) else x.data).is_floating_point()
    return x.to(_weight(cell).dtype) if floats else x


def map_tensors(change: Callable[[Any], Any], state: Any) -> Any:
    """A state, however nested, with every tensor changed."""
    return tuple(map_tensors(change, one) for one in state) if isinstance(state, (tuple, list)) else change(state)


def from_time_first(y: Tensor, batched: bool, batch_first: bool) -> Tensor:
    """y (T, B, I) laid out as x was."""
    if not batched:
        return y.squeeze(1)
    return y.transpose(0, 1) if batch_first else y


def _to_time_first(x: Tensor, batched: bool, batch_first: bool) -> Tensor:
    if not batched:
        return x.unsqueeze(1)
    return x.transpose(0, 1) if batch_first else x


def _check_input(cell: Cell, batch_first: bool, x: Tensor) -> bool:
    """Whether there is a batch."""
    if not isinstance(x, Tensor):
        _refuse(cell, batch_first, type(x).__name__, "pass a tensor")
    shape = x.shape
    batched = len(shape) == 3
    if not (batched or len(shape) == 2) or shape[-1] != cell.input_size or shape[batched and batch_first] < 1:
        _refuse(cell, batch_first, f"a tensor of shape {tuple(shape)}", "reshape x to {}")
    _check_type(cell, x)
    return batched


def _refuse(cell: Cell, batch_first: bool, came: str, instead: str) -> NoReturn:
    layout = "(B, T, I)" if batch_first else "(T, B, I)"
    rule = f"x is {layout}, or (T, I) without a batch, with I = {cell.input_size} columns and T at least 1"
    raise ShapeError(rule, came, instead.format(layout))


def _check_columns(cell: Cell, x: Tensor, what: str) -> None:
    if x.dim() != 2 or x.shape[1] != cell.input_size:
        rule = f"x is {what} with I = {cell.input_size} columns"
        raise ShapeError(rule, f"rows of shape {tuple(x.shape)}", "pack x of another size")
    _check_type(cell, x)


def _check_type(cell: Cell, x: Tensor) -> None:
    weight = _weight(cell)
    if x.dtype != weight.dtype:
        raise ShapeError(f"x has the type of the weights, {weight.dtype}", f"{x.dtype}", f"x.to({weight.dtype})")


def _weight(cell: Cell) -> Tensor:
    own = next(iter(cell._parameters.values()), None)  # at hand, without a walk through modules
    return next(cell.parameters(), torch.empty(0)) if own is None else own
