"""Cells that a search over thousands of architectures found: MUT1, MUT2 and MUT3, all near a GRU."""

from __future__ import annotations

import torch
from torch import Tensor

from cellwright.cells.cell import Cell
from cellwright.cells.lift import Lift


class MUT1(Lift):
    r"""The first mutant: an update gate that sees x alone, and a candidate that takes x as it comes.

    >>> cell = MUT1(3, 5)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape   # (B, H)
    torch.Size([2, 5])

    .. math::
        z_t &= \sigma(x_t W_{xz} + b_z) \\
        r_t &= \sigma(x_t W_{xr} + h_{t-1} W_{hr} + b_r) \\
        g_t &= \tanh((r_t \odot h_{t-1}) W_{hh} + \tanh(x_t P) + b_h) \\
        h_t &= z_t \odot g_t + (1 - z_t) \odot h_{t-1}

    P is the identity where I = H, as the paper has it, else a learned matrix (I, H).

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.

    Source: Jozefowicz, Zaremba and Sutskever (2015), An Empirical Exploration of Recurrent Network Architectures,
    ICML, MUT1.
    """

    gates = {"z": "update gate", "r": "reset gate", "h": "candidate"}

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_gate("z", "xb")
        self.add_gate("r")
        self.add_gate("h", "hb")

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        z = torch.sigmoid(x @ self.W_xz + self.b_z)
        r = torch.sigmoid(x @ self.W_xr + h @ self.W_hr + self.b_r)
        g = torch.tanh((r * h) @ self.W_hh + torch.tanh(self.lift(x)) + self.b_h)
        h = z * g + (1 - z) * h
        return h


class MUT2(Lift):
    r"""The second mutant: a reset gate that takes x as it comes.

    >>> cell = MUT2(3, 5)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape   # (B, H)
    torch.Size([2, 5])

    .. math::
        z_t &= \sigma(x_t W_{xz} + h_{t-1} W_{hz} + b_z) \\
        r_t &= \sigma(x_t P + h_{t-1} W_{hr} + b_r) \\
        g_t &= \tanh((r_t \odot h_{t-1}) W_{hh} + x_t W_{xh} + b_h) \\
        h_t &= z_t \odot g_t + (1 - z_t) \odot h_{t-1}

    P is the identity where I = H, as the paper has it, else a learned matrix (I, H), and the cell is then a GRU with
    the reset gate before the product.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.

    Source: Jozefowicz, Zaremba and Sutskever (2015), An Empirical Exploration of Recurrent Network Architectures,
    ICML, MUT2.
    """

    gates = {"z": "update gate", "r": "reset gate", "h": "candidate"}

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_gate("z")
        self.add_gate("r", "hb")
        self.add_gate("h")

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        z = torch.sigmoid(x @ self.W_xz + h @ self.W_hz + self.b_z)
        r = torch.sigmoid(self.lift(x) + h @ self.W_hr + self.b_r)
        g = torch.tanh((r * h) @ self.W_hh + x @ self.W_xh + self.b_h)
        h = z * g + (1 - z) * h
        return h


class MUT3(Cell):
    r"""The third mutant: an update gate that sees the state squashed once more.

    >>> cell = MUT3(3, 5)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape   # (B, H)
    torch.Size([2, 5])

    .. math::
        z_t &= \sigma(x_t W_{xz} + \tanh(h_{t-1}) W_{hz} + b_z) \\
        r_t &= \sigma(x_t W_{xr} + h_{t-1} W_{hr} + b_r) \\
        g_t &= \tanh((r_t \odot h_{t-1}) W_{hh} + x_t W_{xh} + b_h) \\
        h_t &= z_t \odot g_t + (1 - z_t) \odot h_{t-1}

    But for that tanh it is a GRU with the reset gate before the product, whose z lets the candidate in.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.

    Source: Jozefowicz, Zaremba and Sutskever (2015), An Empirical Exploration of Recurrent Network Architectures,
    ICML, MUT3.
    """

    gates = {"z": "update gate", "r": "reset gate", "h": "candidate"}

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_gates()

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        z = torch.sigmoid(x @ self.W_xz + torch.tanh(h) @ self.W_hz + self.b_z)
        r = torch.sigmoid(x @ self.W_xr + h @ self.W_hr + self.b_r)
        g = torch.tanh((r * h) @ self.W_hh + x @ self.W_xh + self.b_h)
        h = z * g + (1 - z) * h
        return h


CELLS = {"mut1": MUT1, "mut2": MUT2, "mut3": MUT3}
