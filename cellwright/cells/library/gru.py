"""GRU: the gated recurrent unit, in both published forms of its reset gate."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from cellwright.cells.cell import Cell, TorchForm


class GRU(Cell):
    r"""The gated recurrent unit: reset and update gates decide how much of the past enters and stays.

    >>> cell = GRU(3, 5, reset_after=False)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape   # (B, H)
    torch.Size([2, 5])

    .. math::
        r_t &= \sigma(x_t W_{xr} + h_{t-1} W_{hr} + b_r) \\
        z_t &= \sigma(x_t W_{xz} + h_{t-1} W_{hz} + b_z) \\
        n_t &= \tanh(x_t W_{xn} + (r_t \odot h_{t-1}) W_{hn} + b_n)               && \text{reset before} \\
        n_t &= \tanh(x_t W_{xn} + b_n + r_t \odot (h_{t-1} W_{hn} + b_{hn}))      && \text{reset after} \\
        h_t &= z_t \odot h_{t-1} + (1 - z_t) \odot n_t

    The two forms differ in where the reset gate acts. *Before* the product (the tutorials, and version 3 of
    the paper), r hides units of h from the candidate, and the product has to wait for r: two dependent
    products a step. *After* the product (torch.nn.GRU, cuDNN, and version 1 of the paper), r scales the
    product's columns, so that all three products of h can be done at once; it needs a bias b_hn of its own
    inside the brackets. With r = 1 they are equal; trained weights do not carry over from one to the other.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.
        reset_after: the form of torch.nn.GRU (True, default) or of the tutorials (False).
        bias: whether biases exist (default: yes).

    Source: Cho et al. (2014), arXiv 1406.1078, equations 5 to 8; z keeps the old state, as there.
    """

    state = ("h",)
    gates = {"r": "reset gate", "z": "update gate", "n": "candidate"}

    def __init__(self, input_size: int, hidden_size: int, reset_after: bool = True, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        self.reset_after = reset_after
        self.bias = bias
        self.add_gates(bias)
        if reset_after:
            self.add_bias("b_hn", "n", "recurrent bias", bias)

    def torch_form(self) -> TorchForm | None:
        """The kernel of torch.nn.GRU, which knows only the form with the reset after the product."""
        return TorchForm("gru", ("r", "z", "n")) if self.reset_after else None

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        r = torch.sigmoid(x @ self.W_xr + h @ self.W_hr + self.b_r)
        z = torch.sigmoid(x @ self.W_xz + h @ self.W_hz + self.b_z)
        if self.reset_after:
            n = torch.tanh(x @ self.W_xn + self.b_n + r * (h @ self.W_hn + self.b_hn))
        else:
            n = torch.tanh(x @ self.W_xn + (r * h) @ self.W_hn + self.b_n)
        h = z * h + (1 - z) * n
        return h


CELLS = {"gru": GRU, "gru-reset-before": partial(GRU, reset_after=False)}
