"""LSTMs reduced to what their authors found enough: JANET, STAR, minLSTM; one state, which is memory and output."""

from __future__ import annotations

import torch
from torch import Tensor

from cellwright.cells.cell import Cell
from cellwright.cells.init import chrono, orthogonal, zeros


class JANET(Cell):
    r"""An LSTM with its forget gate alone: what is kept decides, less a little, what may enter.

    >>> cell = JANET(3, 5)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape   # (B, H)
    torch.Size([2, 5])

    .. math::
        s_t &= x_t W_{xf} + h_{t-1} W_{hf} + b_f \\
        g_t &= \tanh(x_t W_{xg} + h_{t-1} W_{hg} + b_g) \\
        h_t &= \sigma(s_t) \odot h_{t-1} + (1 - \sigma(s_t - \beta)) \odot g_t

    With beta > 0 a unit can take in more than it forgets; with 0 it takes the mean of old and new. Memory and
    output are one, h = c.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.
        beta: how much the input is let in beyond what is forgotten (default: 1).
        longest: T_max of the chrono initialisation of b_f, in steps; more than 2 (default: 100).

    Source: van der Westhuizen and Lasenby (2018), arXiv 1804.04849, The unreasonable effectiveness of the
    forget gate; b_f = log(u), u from U(1, T_max - 1), and b_g = 0, as there.
    """

    state = ("h",)
    gates = {"f": "forget gate", "g": "candidate"}
    drawn = {"b_g": zeros}  # b_f by chrono, below

    def __init__(self, input_size: int, hidden_size: int, beta: float = 1.0, longest: float = 100.0) -> None:
        super().__init__(input_size, hidden_size)
        self.beta = beta
        self.longest = longest
        self.add_gates()
        chrono(self, longest)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        s = x @ self.W_xf + h @ self.W_hf + self.b_f
        g = torch.tanh(x @ self.W_xg + h @ self.W_hg + self.b_g)
        h = torch.sigmoid(s) * h + (1 - torch.sigmoid(s - self.beta)) * g
        return h


class STAR(Cell):
    r"""A cell for deep stacks: one gate mixes the input into the state, and tanh keeps gradients at their size.

    >>> cell = STAR(3, 5)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape   # (B, H)
    torch.Size([2, 5])

    .. math::
        k_t &= \sigma(x_t W_{xk} + h_{t-1} W_{hk} + b_k) \\
        z_t &= \tanh(x_t W_{xz} + b_z) \\
        h_t &= \tanh((1 - k_t) \odot h_{t-1} + k_t \odot z_t)

    The candidate z sees the input alone, so that the gate is the only place where the past meets a matrix.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.

    Source: Turkoglu et al. (2021), Gating Revisited, IEEE TPAMI, arXiv 1911.11033: the equations of the paper,
    without the shift of 1 between keeping and entering (JANET's beta) that its published code has besides.
    """

    state = ("h",)
    gates = {"k": "gate", "z": "candidate"}
    drawn = {"W_xk": orthogonal, "W_hk": orthogonal, "W_xz": orthogonal}  # as the authors draw them

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_weight("W_xk", "k", "input weight", input_size, hidden_size)
        self.add_weight("W_hk", "k", "recurrent weight", hidden_size, hidden_size)
        self.add_bias("b_k", "k", "bias")
        self.add_weight("W_xz", "z", "input weight", input_size, hidden_size)
        self.add_bias("b_z", "z", "bias")

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        k = torch.sigmoid(x @ self.W_xk + h @ self.W_hk + self.b_k)
        z = torch.tanh(x @ self.W_xz + self.b_z)
        h = torch.tanh((1 - k) * h + k * z)
        return h


class MinLSTM(Cell):
    r"""An LSTM whose gates see the input alone, their sum scaled to 1: a moving mean, cheap in every step.

    >>> cell = MinLSTM(3, 5)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape   # (B, H)
    torch.Size([2, 5])

    .. math::
        f_t &= \sigma(x_t W_{xf} + b_f) \\
        i_t &= \sigma(x_t W_{xi} + b_i) \\
        g_t &= x_t W_{xg} + b_g \\
        h_t &= \frac{f_t}{f_t + i_t} \odot h_{t-1} + \frac{i_t}{f_t + i_t} \odot g_t

    Nothing but the last line needs the state before, so all products are done for all steps at once.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.

    Source: Feng et al. (2024), Were RNNs All We Needed?, arXiv 2410.01201, minLSTM with the scaled gates f' and
    i'; of its two forms that of the main text, whose candidate is linear, not the one in log space.
    """

    state = ("h",)
    gates = {"f": "forget gate", "i": "input gate", "g": "candidate"}

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        for gate in self.gates:
            self.add_weight(f"W_x{gate}", gate, "input weight", input_size, hidden_size)
            self.add_bias(f"b_{gate}", gate, "bias")

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        f = torch.sigmoid(x @ self.W_xf + self.b_f)
        i = torch.sigmoid(x @ self.W_xi + self.b_i)
        g = x @ self.W_xg + self.b_g
        h = f / (f + i) * h + i / (f + i) * g
        return h


CELLS = {"janet": JANET, "star": STAR, "minlstm": MinLSTM}
