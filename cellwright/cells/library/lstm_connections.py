"""LSTMs with other connections: what the gates see, and how the cell state is shown, is each paper's own."""

from __future__ import annotations

import torch
from torch import Tensor

from cellwright.cells.cell import Cell
from cellwright.cells.library.lstm import LSTM


class MultiplicativeLSTM(Cell):
    r"""An LSTM in which the input chooses how the past enters: the gates see a product of x and h, not h.

    >>> cell = MultiplicativeLSTM(3, 5)
    >>> h, c = cell(torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(2, 5))   # both (B, H)

    .. math::
        m_t &= (x_t W_{xm}) \odot (h_{t-1} W_{hm}) \\
        i_t &= \sigma(x_t W_{xi} + m_t W_{mi} + b_i) \\
        f_t &= \sigma(x_t W_{xf} + m_t W_{mf} + b_f) \\
        o_t &= \sigma(x_t W_{xo} + m_t W_{mo} + b_o) \\
        g_t &= \tanh(x_t W_{xg} + m_t W_{mg} + b_g) \\
        c_t &= f_t \odot c_{t-1} + i_t \odot g_t \\
        h_t &= o_t \odot \tanh(c_t)

    For each letter of a text the matrix that leads from h to the gates is another one, W_hm diag(x W_xm) W_m.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h and c, and of m.

    Source: Krause et al. (2016), arXiv 1609.07959, mLSTM (no kin of xLSTM's matrix memory of that name), with
    biases at the gates and the candidate, and the output gate outside of tanh.
    """

    state = ("h", "c")
    gates = {**LSTM.gates, "m": "intermediate state"}

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_weight("W_xm", "m", "input weight", input_size, hidden_size)
        self.add_weight("W_hm", "m", "recurrent weight", hidden_size, hidden_size)
        for gate in LSTM.gates:
            self.add_weight(f"W_x{gate}", gate, "input weight", input_size, hidden_size)
            self.add_weight(f"W_m{gate}", gate, "recurrent weight", hidden_size, hidden_size)
            self.add_bias(f"b_{gate}", gate, "bias")

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        m = (x @ self.W_xm) * (h @ self.W_hm)
        i = torch.sigmoid(x @ self.W_xi + m @ self.W_mi + self.b_i)
        f = torch.sigmoid(x @ self.W_xf + m @ self.W_mf + self.b_f)
        o = torch.sigmoid(x @ self.W_xo + m @ self.W_mo + self.b_o)
        g = torch.tanh(x @ self.W_xg + m @ self.W_mg + self.b_g)
        c = f * c + i * g
        h = o * torch.tanh(c)
        return h, c


class WorkingMemoryLSTM(Cell):
    r"""An LSTM whose gates see the cell state through a matrix and tanh, which keeps large memories from ruling them.

    >>> cell = WorkingMemoryLSTM(3, 5)
    >>> h, c = cell(torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(2, 5))   # both (B, H)

    .. math::
        i_t &= \sigma(x_t W_{xi} + h_{t-1} W_{hi} + \tanh(c_{t-1} W_{ci}) + b_i) \\
        f_t &= \sigma(x_t W_{xf} + h_{t-1} W_{hf} + \tanh(c_{t-1} W_{cf}) + b_f) \\
        g_t &= \tanh(x_t W_{xg} + h_{t-1} W_{hg} + b_g) \\
        c_t &= f_t \odot c_{t-1} + i_t \odot g_t \\
        o_t &= \sigma(x_t W_{xo} + h_{t-1} W_{ho} + \tanh(c_t W_{co}) + b_o) \\
        h_t &= o_t \odot \tanh(c_t)

    A peephole lets an unbounded c into a gate; here what it adds lies between -1 and 1. The output gate sees
    the new cell state.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h and c.

    Source: Landi et al. (2021), Working Memory Connections for LSTM, Neural Networks 144, arXiv 2109.00020.
    """

    state = ("h", "c")
    gates = LSTM.gates

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_gates()
        for gate in "ifo":
            self.add_weight(f"W_c{gate}", gate, "memory weight", hidden_size, hidden_size)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i = torch.sigmoid(x @ self.W_xi + h @ self.W_hi + torch.tanh(c @ self.W_ci) + self.b_i)
        f = torch.sigmoid(x @ self.W_xf + h @ self.W_hf + torch.tanh(c @ self.W_cf) + self.b_f)
        g = torch.tanh(x @ self.W_xg + h @ self.W_hg + self.b_g)
        c = f * c + i * g
        o = torch.sigmoid(x @ self.W_xo + h @ self.W_ho + torch.tanh(c @ self.W_co) + self.b_o)
        h = o * torch.tanh(c)
        return h, c


class ResidualLSTM(Cell):
    r"""An LSTM with a way past itself: its output gate shows the input beside the projected cell state.

    >>> cell = ResidualLSTM(3, 5)
    >>> h, c = cell(torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(2, 5))   # both (B, H)

    .. math::
        i_t &= \sigma(x_t W_{xi} + h_{t-1} W_{hi} + p_i \odot c_{t-1} + b_i) \\
        f_t &= \sigma(x_t W_{xf} + h_{t-1} W_{hf} + p_f \odot c_{t-1} + b_f) \\
        g_t &= \tanh(x_t W_{xg} + h_{t-1} W_{hg} + b_g) \\
        c_t &= f_t \odot c_{t-1} + i_t \odot g_t \\
        o_t &= \sigma(x_t W_{xo} + h_{t-1} W_{ho} + c_t W_{co} + b_o) \\
        h_t &= o_t \odot (\tanh(c_t) W_{rh} + x_t W_{xh})

    In a deep stack the sum carries gradients from layer to layer, as a residual network does, and the output
    gate weighs both terms.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h and c.

    Source: Kim, El-Khamy and Lee (2017), arXiv 1701.03360, section 3: the peepholes of i and f are vectors,
    that of o is a matrix. The shortcut always has its matrix W_xh, which the paper leaves out where I = H.
    """

    state = ("h", "c")
    gates = {**LSTM.gates, "h": "output"}

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        for gate in LSTM.gates:
            self.add_weight(f"W_x{gate}", gate, "input weight", input_size, hidden_size)
            self.add_weight(f"W_h{gate}", gate, "recurrent weight", hidden_size, hidden_size)
            self.add_bias(f"b_{gate}", gate, "bias")
        self.add_weight("p_i", "i", "peephole", hidden_size)
        self.add_weight("p_f", "f", "peephole", hidden_size)
        self.add_weight("W_co", "o", "memory weight", hidden_size, hidden_size)
        self.add_weight("W_rh", "h", "projection", hidden_size, hidden_size)
        self.add_weight("W_xh", "h", "shortcut", input_size, hidden_size)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i = torch.sigmoid(x @ self.W_xi + h @ self.W_hi + self.p_i * c + self.b_i)
        f = torch.sigmoid(x @ self.W_xf + h @ self.W_hf + self.p_f * c + self.b_f)
        g = torch.tanh(x @ self.W_xg + h @ self.W_hg + self.b_g)
        c = f * c + i * g
        o = torch.sigmoid(x @ self.W_xo + h @ self.W_ho + c @ self.W_co + self.b_o)
        h = o * (torch.tanh(c) @ self.W_rh + x @ self.W_xh)
        return h, c


CELLS = {"lstm-multiplicative": MultiplicativeLSTM, "lstm-wmc": WorkingMemoryLSTM, "lstm-residual": ResidualLSTM}
