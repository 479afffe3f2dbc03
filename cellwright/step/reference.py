"""The cell in a plain Python loop: the lines that define what "correct" means."""

from __future__ import annotations

import torch
from torch import Tensor

from cellwright.cells import Cell


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
    outputs = []
    for x_t in x:  # (B, I)
        y_t, state = cell.split_output(cell(x_t, *state))
        outputs.append(y_t)
    return torch.stack(outputs), state
