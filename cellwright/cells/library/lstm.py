"""LSTM: long short-term memory with input, forget and output gates."""

from __future__ import annotations

import torch
from torch import Tensor

from cellwright.cells.cell import Cell, TorchForm


class LSTM(Cell):
    r"""Long short-term memory: gates decide what enters the cell state, what stays there and what is shown.

    >>> cell = LSTM(3, 5)
    >>> h, c = cell(torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(2, 5))   # both (B, H)

    .. math::
        i_t &= \sigma(x_t W_{xi} + h_{t-1} W_{hi} + b_i) \\
        f_t &= \sigma(x_t W_{xf} + h_{t-1} W_{hf} + b_f) \\
        o_t &= \sigma(x_t W_{xo} + h_{t-1} W_{ho} + b_o) \\
        g_t &= \tanh(x_t W_{xg} + h_{t-1} W_{hg} + b_g) \\
        c_t &= f_t \odot c_{t-1} + i_t \odot g_t \\
        h_t &= o_t \odot \tanh(c_t)

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h and c.
        bias: whether biases exist (default: yes).

    Source: Hochreiter and Schmidhuber (1997), Neural Computation 9(8), with the forget gate of Gers,
    Schmidhuber and Cummins (2000) and no peepholes. Equal to torch.nn.LSTM, whose two biases only ever
    appear as their sum.
    """

    state = ("h", "c")
    gates = {"i": "input gate", "f": "forget gate", "o": "output gate", "g": "cell candidate"}

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        self.bias = bias
        self.add_gates(bias)

    def torch_form(self) -> TorchForm:
        """The kernel of torch.nn.LSTM."""
        return TorchForm("lstm", ("i", "f", "g", "o"))

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i = torch.sigmoid(x @ self.W_xi + h @ self.W_hi + self.b_i)
        f = torch.sigmoid(x @ self.W_xf + h @ self.W_hf + self.b_f)
        o = torch.sigmoid(x @ self.W_xo + h @ self.W_ho + self.b_o)
        g = torch.tanh(x @ self.W_xg + h @ self.W_hg + self.b_g)
        c = f * c + i * g
        h = o * torch.tanh(c)
        return h, c


CELLS = {"lstm": LSTM}
