"""Backend "torch": exactly standard cells on the kernels behind torch.nn.RNN, GRU and LSTM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cellwright.cells import Cell, TorchForm
from cellwright.step import Ragged

KERNELS: dict[str, Callable[..., Any]] = {
    "rnn_tanh": torch.rnn_tanh,
    "rnn_relu": torch.rnn_relu,
    "gru": torch.gru,
    "lstm": torch.lstm,
}


def standard_form(cell: Cell) -> TorchForm | None:
    """The kernel that computes exactly this cell; None where anything about the cell is its own."""
    return cell.torch_form() if is_unchanged(cell) else None


def is_unchanged(cell: Cell) -> bool:
    """Whether a cell computes what the class means that says its `torch_form`: nothing was put in between."""
    form_class, step_class = _owner(type(cell), "torch_form"), _owner(type(cell), "step")
    plain = all(_owner(type(cell), name) is Cell for name in ("forward", "split_output", "initial_state"))
    hooked = cell._forward_hooks or cell._forward_pre_hooks or cell._backward_hooks or cell._backward_pre_hooks
    return not ("step" in vars(cell) or hooked or not plain) and issubclass(form_class, step_class)


def _owner(kind: type, name: str) -> type:
    return next(base for base in kind.__mro__ if name in vars(base))


def stacked_weights(cell: Cell, form: TorchForm) -> list[Tensor]:
    """The weights as torch.nn stacks them: (G*H, I), (G*H, H), (G*H,), (G*H,)."""
    zeros = getattr(cell, f"b_{form.order[0]}").new_zeros(cell.hidden_size)
    weight_ih = torch.cat([getattr(cell, f"W_x{gate}") for gate in form.order], dim=1).T
    weight_hh = torch.cat([getattr(cell, f"W_h{gate}") for gate in form.order], dim=1).T
    bias_ih = torch.cat([getattr(cell, f"b_{gate}") for gate in form.order])
    bias_hh = torch.cat([getattr(cell, f"b_h{gate}", zeros) for gate in form.order])
    return [weight_ih.contiguous(), weight_hh.contiguous(), bias_ih, bias_hh]


def run_torch(
    cell: Cell, x: Tensor, state: tuple[Tensor, ...], ragged: Ragged | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """y, laid out as x, and the final states, each (1, B, H), of a standard cell over x (T, B, I) or ragged (N, I)."""
    form = standard_form(cell)
    assert form is not None
    first = [s.unsqueeze(0) for s in state]  # (1, B, H), as these kernels want them
    # Arguments: has_biases, num_layers, dropout, train (keep what a backward needs), bidirectional, batch_first.
    flags: tuple[Any, ...] = (True, 1, 0.0, torch.is_grad_enabled(), False, False)
    flags = flags if ragged is None else flags[:-1]
    inputs = (x,) if ragged is None else (x, ragged.starts.diff())
    y, *last = KERNELS[form.kernel](*inputs, first if len(first) > 1 else first[0], stacked_weights(cell, form), *flags)
    return y, tuple(last)
