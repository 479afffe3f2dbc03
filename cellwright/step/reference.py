"""The cell in a plain Python loop: the lines that define what "correct" means."""

from __future__ import annotations

import torch
from torch import Tensor

from cellwright.cells import Cell
from cellwright.errors import CellError


def unroll(cell: Cell, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a cell over a sequence, one step after the other.

    >>> from cellwright.cells import LSTM
    >>> cell = LSTM(3, 5)
    >>> y, (h, c) = unroll(cell, torch.zeros(7, 2, 3), cell.initial_state(2))
    >>> y.shape, c.shape
    (torch.Size([7, 2, 5]), torch.Size([2, 5]))

    Args:
        cell: the cell.
        x: inputs (T, B, I), T at least 1.
        state: the states before the first step, each (B, H).

    Returns:
        The outputs y (T, B, H) and the states after the last step, each (B, H).
    """
    outputs: list[Tensor] = []
    for x_t in x:  # (B, I)
        y_t, new_state = cell.split_output(cell(x_t, *state))
        if not outputs:
            refuse_other_shapes(cell, state, new_state)
        state = new_state
        outputs.append(y_t)
    return torch.stack(outputs), state


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
