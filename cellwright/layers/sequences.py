"""Sequences: padded, packed, reset and reversed batches as views of one thing, rows packed step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from cellwright.cells import Cell
from cellwright.errors import ShapeError
from cellwright.step import Ragged

State = tuple[Tensor, ...]
Runner = Callable[[int, Tensor, State | None, Ragged | None], tuple[Tensor, State]]
"""Runs cell number ... on x from a state (None: as it begins)."""


class Part(NamedTuple):
    """One cell of a layer, and its weights by name."""

    cell: Cell
    weights: dict[str, Tensor]


class Batch(NamedTuple):
    """What a layer runs on: x (T, B, I), or packed x (N, I) and which rows are which step's."""

    x: Tensor
    ragged: Ragged | None = None
    order: Tensor | None = None
    """Of packed sequences, their places in the batch that was given; None where they are as given."""
    back: Tensor | None = None
    """Of the given ones, their places among the packed."""
    steps: int = 0
    """T of the padded batch that y is to have; 0 where y stays packed, or nothing was packed."""

    def rows(self) -> int:
        """B."""
        return self.x.shape[1] if self.ragged is None else int(self.ragged.starts[1])


def from_packed(packed: PackedSequence, resets: Tensor | None) -> Batch:
    """A batch from torch's PackedSequence; resets are (N,), packed in the same way."""
    return Batch(
        packed.data, Ragged(_starts(packed.batch_sizes), _bytes(resets)), packed.sorted_indices, packed.unsorted_indices
    )


def from_lengths(x: Tensor, lengths: Tensor | Sequence[int], resets: Tensor | None) -> Batch:
    """A batch from padded x (T, B, I), without what lies beyond each sequence's length."""
    T, B = x.shape[:2]
    found = torch.as_tensor(lengths, device="cpu")
    fits = found.shape == (B,) and not found.is_floating_point() and found.dtype != torch.bool
    if not fits or not bool(((found >= 1) & (found <= T)).all()):
        came = f"{found.tolist()}" if found.numel() <= 8 else f"a tensor {tuple(found.shape)}"
        raise ShapeError(
            f"lengths are {B} whole numbers from 1 to {T}, one for each sequence",
            came,
            "leave out sequences without a step, and count every step that is not padding",
        )
    packed = pack_padded_sequence(x, found, enforce_sorted=False)
    if resets is not None:
        resets = pack_padded_sequence(resets, found, enforce_sorted=False).data
    return from_packed(packed, resets)._replace(steps=T)


def from_resets(x: Tensor, resets: Tensor) -> Batch:
    """A batch from x (T, B, I) all of whose sequences are as long, with resets (T, B)."""
    T, B, I = x.shape
    starts = torch.arange(T + 1) * B
    return Batch(x.reshape(T * B, I), Ragged(starts, _bytes(resets.reshape(T * B))), steps=T)


def check_resets(resets: Tensor | None, shape: tuple[int, ...], x: Tensor) -> None:
    """Refuse resets of another shape, or that are no marks."""
    if resets is None:
        return
    if not isinstance(resets, Tensor) or tuple(resets.shape) != shape or resets.is_floating_point():
        came = f"{tuple(resets.shape)} {resets.dtype}" if isinstance(resets, Tensor) else type(resets).__name__
        raise ShapeError(
            f"resets are a tensor {shape} of bool, true where a step begins anew", came, "write resets=(done == 1), say"
        )


def to_given(batch: Batch, y: Tensor) -> Tensor | PackedSequence:
    """y laid out as x was: packed, or padded with zeros."""
    if batch.ragged is None:
        return y
    sizes = batch.ragged.starts.diff()
    if batch.back is None and batch.steps:  # all as long
        return y.view(batch.steps, -1, y.shape[-1])
    packed = PackedSequence(y, sizes, batch.order, batch.back)
    return pad_packed_sequence(packed, total_length=batch.steps)[0] if batch.steps else packed


def stack(
    batch: Batch,
    first: Sequence[State | None],
    run: Runner,
    directions: int,
    between: Callable[[Tensor, Batch], Tensor],
) -> tuple[Tensor, list[State]]:
    """Layers on top of each other, each in one or both directions.

    Args:
        batch: the input.
        first: the states before the first step, of every layer and direction; None: as the cell begins.
        run: runs cell number ... on x from a state.
        directions: 1 or 2.
        between: what happens to the output of every layer but the last.

    Returns:
        y, laid out like x, and the final states of every layer and direction, each (1, B, H).
    """
    x = batch.x
    last: list[State] = []
    turned = _reversal(batch.ragged) if directions == 2 and batch.ragged is not None else None
    for place in range(0, len(first), directions):
        outputs = []
        for direction in range(directions):
            cell = place + direction
            if not direction:
                y, state = run(cell, x, first[cell], batch.ragged)
            elif turned is None:
                y, state = run(cell, x.flip(0), first[cell], None)
                y = y.flip(0)
            else:
                y, state = run(cell, x.index_select(0, turned.order), first[cell], turned.ragged)
                y = y.index_select(0, turned.order)
            outputs.append(y)
            last.append(state)
        x = outputs[0] if directions == 1 else torch.cat(outputs, dim=-1)
        x = between(x, batch) if place + directions < len(first) else x
    return x, last


class Reversal(NamedTuple):
    """Every sequence of a packed batch from its end: the order of rows, its own inverse."""

    order: Tensor
    ragged: Ragged


def places(ragged: Ragged) -> tuple[Tensor, Tensor]:
    """Of every row of a packed batch (N,): its step, and its sequence's number."""
    sizes = ragged.starts.diff()
    step = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    return step, torch.arange(int(ragged.starts[-1])) - ragged.starts[step]


def _reversal(ragged: Ragged) -> Reversal:
    step, number = places(ragged)
    lengths = torch.bincount(number)
    order = ragged.starts[lengths[number] - 1 - step] + number
    resets = ragged.resets
    if resets is not None:  # what begins anew forward ends there backward: the step before it is the first again
        before = (ragged.starts[(step - 1).clamp_min(0)] + number).to(resets.device)
        turned = resets.index_select(0, order.to(resets.device)).index_select(0, before)
        resets = torch.where((step == 0).to(resets.device), 0, turned)
    device = ragged.resets.device if ragged.resets is not None else None
    return Reversal(order if device is None else order.to(device), Ragged(ragged.starts, resets))


def _starts(sizes: Tensor) -> Tensor:
    return nn.functional.pad(sizes.to(torch.int64).cumsum(0), (1, 0))


def _bytes(resets: Tensor | None) -> Tensor | None:
    return None if resets is None else (resets != 0).to(torch.uint8).contiguous()
