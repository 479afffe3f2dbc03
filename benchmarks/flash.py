"""FlashRNN as a rival (`pip install flashrnn`, a CUDA compiler): its kernels for an LSTM of ours, on its weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cellwright.cells import Cell

GATES = ("i", "f", "g", "o")  # input, forget, candidate, output, as FlashRNN has them in a row


def flash_lstm(cell: Cell, backend: str = "cuda_fused") -> Callable[[Tensor], tuple[Tensor, Tensor]] | None:
    """A function of x (T, B, I) that returns y (T, B, H) and the cell states; None where FlashRNN is not installed.

    Args:
        cell: an LSTM, whose weights are used, and get gradients.
        backend: FlashRNN's: one head over all columns, in one fused kernel; "vanilla" is its loop in Python.
    """
    try:
        from flashrnn.flashrnn.flashrnn import flashrnn
    except ImportError:
        return None

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        inputs, recurrent, biases = ([getattr(cell, name + gate) for gate in GATES] for name in ("W_x", "W_h", "b_"))
        projected = (x @ torch.cat(inputs, dim=1)).unflatten(-1, (4, 1, -1))  # (T, B, gates, heads, H)
        weights = torch.stack([one.T for one in recurrent]).unsqueeze(1)  # (gates, heads, H, H)
        shifts = torch.stack(biases).unsqueeze(1)  # (gates, heads, H)
        dtype = str(x.dtype).removeprefix("torch.")
        states, _ = flashrnn(projected.transpose(0, 1), weights, shifts, function="lstm", backend=backend, dtype=dtype)
        h, c = states[:, :, :, 0].transpose(1, 2).unbind(0)  # each (T, B, H), of (states, B, T, heads, H)
        return h, c

    return run
