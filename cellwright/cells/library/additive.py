"""Cells that add x to the state through gates, with nothing or little else between steps: RAN, ATR and CFN."""

from __future__ import annotations

import torch
from torch import Tensor

from cellwright.cells.cell import Cell
from cellwright.cells.init import constant, ones


class RAN(Cell):
    r"""The recurrent additive network: an LSTM whose content is a map of x alone.

    >>> cell = RAN(3, 5)
    >>> h, c = cell(torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(2, 5))   # both (B, H)

    .. math::
        g_t &= x_t W_{xg} \\
        i_t &= \sigma(x_t W_{xi} + h_{t-1} W_{hi} + b_i) \\
        f_t &= \sigma(x_t W_{xf} + h_{t-1} W_{hf} + b_f) \\
        c_t &= i_t \odot g_t + f_t \odot c_{t-1} \\
        h_t &= \tanh(c_t)

    c is a weighted sum of what went in, unit by unit: how much each input counts can be read from the gates.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h and c.
        squash: whether h is tanh(c) (default), or c itself.

    Source: Lee, Levy and Zettlemoyer (2017), arXiv 1705.07393, equation 1, with its content layer W_xg (there W_cx,
    without a bias); squash: their g is tanh or the identity.
    """

    state = ("h", "c")
    gates = {"g": "content", "i": "input gate", "f": "forget gate"}

    def __init__(self, input_size: int, hidden_size: int, squash: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        self.squash = squash
        self.add_gate("g", "x")
        self.add_gate("i")
        self.add_gate("f")

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        g = x @ self.W_xg
        i = torch.sigmoid(x @ self.W_xi + h @ self.W_hi + self.b_i)
        f = torch.sigmoid(x @ self.W_xf + h @ self.W_hf + self.b_f)
        c = i * g + f * c
        h = torch.tanh(c) if self.squash else c
        return h, c


class ATR(Cell):
    r"""The addition-subtraction twin-gated network: two gates from one sum and one difference.

    >>> cell = ATR(3, 5)
    >>> [name for name, _ in cell.named_parameters()]
    ['W_xp', 'W_hq']

    .. math::
        p_t &= x_t W_{xp} \\
        q_t &= h_{t-1} W_{hq} \\
        i_t &= \sigma(p_t + q_t) \\
        f_t &= \sigma(p_t - q_t) \\
        h_t &= i_t \odot p_t + f_t \odot h_{t-1}

    Two matrices and no bias are all its parameters: the fewest of any gated cell here. Where the past agrees with x
    the input gate opens, where it does not the forget gate does.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.

    Source: Zhang, Xiong, Su, Lin and Zhang (2018), Simplifying Neural Machine Translation with Addition-Subtraction
    Twin-Gated Recurrent Networks, EMNLP, arXiv 1810.12546; without biases.
    """

    gates = {"p": "input part", "q": "recurrent part"}

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_gate("p", "x")
        self.add_gate("q", "h")

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        p = x @ self.W_xp
        q = h @ self.W_hq
        i = torch.sigmoid(p + q)
        f = torch.sigmoid(p - q)
        h = i * p + f * h
        return h


class CFN(Cell):
    r"""The chaos-free network: without input its state can only decay.

    >>> cell = CFN(3, 5)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape   # (B, H)
    torch.Size([2, 5])

    .. math::
        f_t &= \sigma(x_t W_{xf} + h_{t-1} W_{hf} + b_f) \\
        i_t &= \sigma(x_t W_{xi} + h_{t-1} W_{hi} + b_i) \\
        h_t &= f_t \odot \tanh(h_{t-1}) + i_t \odot \tanh(x_t W_{xg})

    Its only attractor is zero, while an LSTM or GRU without input can run on chaotically; it predicts text nearly as
    well.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.

    Source: Laurent and von Brecht (2017), arXiv 1612.06212; f and i are there theta and eta.
    """

    gates = {"f": "forget gate", "i": "input gate", "g": "candidate"}
    drawn = {"b_f": ones, "b_i": constant(-1.0)}  # as the paper trains it: it remembers at first

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_gate("f")
        self.add_gate("i")
        self.add_gate("g", "x")

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        f = torch.sigmoid(x @ self.W_xf + h @ self.W_hf + self.b_f)
        i = torch.sigmoid(x @ self.W_xi + h @ self.W_hi + self.b_i)
        h = f * torch.tanh(h) + i * torch.tanh(x @ self.W_xg)
        return h


CELLS = {"ran": RAN, "atr": ATR, "cfn": CFN}
