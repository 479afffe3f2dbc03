"""The cell in a plain Python loop: the lines that define what "correct" means."""

from __future__ import annotations

import torch
from torch import Tensor

from cellwright.cells import Cell
from cellwright.errors import CellError
from cellwright.step.ragged import Ragged


def unroll(
    cell: Cell, x: Tensor, state: tuple[Tensor, ...], ragged: Ragged | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a cell over a sequence, one step after the other.

    >>> from cellwright.cells import LSTM
    >>> cell = LSTM(3, 5)
    >>> y, (h, c) = unroll(cell, torch.zeros(7, 2, 3), cell.initial_state(2))
    >>> y.shape, c.shape
    (torch.Size([7, 2, 5]), torch.Size([2, 5]))

    Args:
        cell: the cell.
        x: inputs (T, B, I), T at least 1; where ragged is given, (N, I).
        state: the states before the first step, each (B, H).
        ragged: which rows are which step's.

    Returns:
        The outputs y, laid out as x, and the states after each sequence's last step, each (B, H).
    """
    if ragged is not None:
        return _unroll_ragged(cell, x, state, ragged)
    outputs: list[Tensor] = []
    for x_t in x:  # (B, I)
        y_t, new_state = cell.split_output(cell(x_t, *state))
        if not outputs:
            refuse_other_shapes(cell, state, new_state)
        state = new_state
        outputs.append(y_t)
    return torch.stack(outputs), state


def _unroll_ragged(
    cell: Cell, x: Tensor, state: tuple[Tensor, ...], ragged: Ragged
) -> tuple[Tensor, tuple[Tensor, ...]]:
    sizes = ragged.sizes()
    rows = x.split(sizes)  # type: ignore[no-untyped-call]
    resets = [None] * len(sizes) if ragged.resets is None else torch.tensor_split(ragged.resets, ragged.starts[1:-1])
    outputs: list[Tensor] = []
    ended: list[tuple[Tensor, ...]] = []
    for x_t, reset in zip(rows, resets, strict=True):  # (rows of t, I)
        ended.append(tuple(s[len(x_t) :] for s in state))
        state = tuple(s[: len(x_t)] for s in state)
        if reset is not None:
            state = tuple(torch.where((reset != 0).unsqueeze(1), torch.zeros_like(s), s) for s in state)
        y_t, new_state = cell.split_output(cell(x_t, *state))
        refuse_other_shapes(cell, state, new_state)
        state = new_state
        outputs.append(y_t)
    last = zip(state, *reversed(ended), strict=True)  # of each state, those of the longest sequences first
    return torch.cat(outputs), tuple(torch.cat(parts) for parts in last)


def refuse_other_shapes(cell: Cell, before: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> None:
    """Refuse a step after which a state has another shape or type than before.

    Raises:
        CellError: naming the state.
    """
    for name, old, new in zip(cell.state, before, after, strict=True):
        if old.shape != new.shape or old.dtype != new.dtype:
            raise CellError(
                f"step keeps the shape and type of every state: {name} is {tuple(old.shape)} {old.dtype}",
                f"{tuple(new.shape)} {new.dtype} from {type(cell).__name__}.step",
                f"return {name} (B, H), with H = hidden_size = {cell.hidden_size}",
            )
