"""Cells with one gate: MGU, minimal RNN, UGRNN, SGU and DSGU."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import softplus

from cellwright.cells.cell import Cell
from cellwright.cells.init import ones
from cellwright.errors import CellError

FORGET_PARTS = ("xhb", "hb", "h", "b")  # what the forget gate of MGU, MGU1, MGU2 and MGU3 is made of


class MGU(Cell):
    r"""The minimal gated unit: one gate forgets, hides the past from the candidate and lets the candidate in.

    >>> cell = MGU(3, 5)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape   # (B, H)
    torch.Size([2, 5])
    >>> [name for name, _ in MGU(3, 5, variant=3).named_parameters()]
    ['b_f', 'W_xh', 'W_hh', 'b_h']

    .. math::
        f_t &= \sigma(x_t W_{xf} + h_{t-1} W_{hf} + b_f)   && \text{MGU} \\
        f_t &= \sigma(h_{t-1} W_{hf} + b_f)                && \text{MGU1} \\
        f_t &= \sigma(h_{t-1} W_{hf})                      && \text{MGU2} \\
        f_t &= \sigma(b_f)                                 && \text{MGU3} \\
        g_t &= \tanh(x_t W_{xh} + (f_t \odot h_{t-1}) W_{hh} + b_h) \\
        h_t &= (1 - f_t) \odot h_{t-1} + f_t \odot g_t

    A GRU (reset before the product) whose two gates are one. In the variants that gate is made of less and less.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.
        variant: 0 (default) for MGU, 1, 2 or 3 for MGU1 to MGU3.

    Source: Zhou, Wu, Zhang and Zhou (2016), arXiv 1603.09420 (f = 1 takes the candidate, as there); the variants:
    Heck and Salem (2017), arXiv 1701.03452.
    """

    gates = {"f": "forget gate", "h": "candidate"}

    def __init__(self, input_size: int, hidden_size: int, variant: int = 0) -> None:
        super().__init__(input_size, hidden_size)
        if variant not in range(len(FORGET_PARTS)):
            raise CellError("variant is 0 (MGU), or 1, 2 or 3 (MGU1 to MGU3)", repr(variant), "write one of those")
        self.variant = variant
        self.add_gate("f", FORGET_PARTS[variant])
        self.add_gate("h")

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        if self.variant == 0:
            f = torch.sigmoid(x @ self.W_xf + h @ self.W_hf + self.b_f)
        elif self.variant == 1:
            f = torch.sigmoid(h @ self.W_hf + self.b_f)
        elif self.variant == 2:
            f = torch.sigmoid(h @ self.W_hf)
        else:
            f = torch.sigmoid(self.b_f)
        g = torch.tanh(x @ self.W_xh + (f * h) @ self.W_hh + self.b_h)
        h = (1 - f) * h + f * g
        return h


class MinimalRNN(Cell):
    r"""The minimal RNN: its state is a moving mean of encodings of x, and so lives in their space.

    >>> cell = MinimalRNN(3, 5)
    >>> [name for name, _ in cell.named_parameters()]
    ['W_xz', 'b_z', 'W_hu', 'b_u', 'W_zu']

    .. math::
        z_t &= \tanh(x_t W_{xz} + b_z) \\
        u_t &= \sigma(h_{t-1} W_{hu} + z_t W_{zu} + b_u) \\
        h_t &= u_t \odot h_{t-1} + (1 - u_t) \odot z_t

    x meets h only in the gate. W_zu is (H, H): it reads the encoding, not x.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.

    Source: Chen (2017), MinimalRNN: Toward More Interpretable and Trainable Recurrent Neural Networks, arXiv
    1711.06788; its map Phi of x is here a dense layer with tanh.
    """

    gates = {"z": "encoding of x", "u": "update gate"}

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_gate("z", "xb")
        self.add_gate("u", "hb")
        self.add_weight("W_zu", "u", "input weight", hidden_size, hidden_size)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        z = torch.tanh(x @ self.W_xz + self.b_z)
        u = torch.sigmoid(h @ self.W_hu + z @ self.W_zu + self.b_u)
        h = u * h + (1 - u) * z
        return h


class UGRNN(Cell):
    r"""The update gate RNN: a simple recurrent network with a gate that says how much of it is new.

    >>> cell = UGRNN(3, 5)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape   # (B, H)
    torch.Size([2, 5])

    .. math::
        c_t &= \tanh(x_t W_{xc} + h_{t-1} W_{hc} + b_c) \\
        g_t &= \sigma(x_t W_{xg} + h_{t-1} W_{hg} + b_g) \\
        h_t &= g_t \odot h_{t-1} + (1 - g_t) \odot c_t

    A GRU whose reset gate is always open: easier to train than an RNN, and the paper's choice for deep stacks.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.

    Source: Collins, Sohl-Dickstein and Sussillo (2017), arXiv 1611.09913, the UGRNN, with tanh.
    """

    gates = {"c": "candidate", "g": "update gate"}
    drawn = {"b_g": ones}  # the paper's forget bias b^fg, added to the gate

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_gates()

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        c = torch.tanh(x @ self.W_xc + h @ self.W_hc + self.b_c)
        g = torch.sigmoid(x @ self.W_xg + h @ self.W_hg + self.b_g)
        h = g * h + (1 - g) * c
        return h


def hard_sigmoid(a: Tensor) -> Tensor:
    """The sigmoid in three straight lines, of slope 0.2 in the middle."""
    return torch.clamp(0.2 * a + 0.5, 0.0, 1.0)


class SGU(Cell):
    r"""The simple gated unit: x enters only by scaling the state.

    >>> cell = SGU(3, 5)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape   # (B, H)
    torch.Size([2, 5])

    .. math::
        a_t &= \tanh(((x_t W_{xa} + b_a) \odot h_{t-1}) W_{ha}) \\
        g_t &= \log(1 + \exp(a_t \odot h_{t-1})) \\
        z_t &= \min(1, \max(0, 0.2\, (x_t W_{xz} + h_{t-1} W_{hz} + b_z) + 0.5)) \\
        h_t &= (1 - z_t) \odot h_{t-1} + z_t \odot g_t

    States stay above 0 once they are. One matrix of x fewer than a GRU.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.

    Source: Gao and Glowacka (2016), Deep Gate Recurrent Neural Network, ACML, arXiv 1604.02910, SGU; the hard sigmoid
    has slope 0.2, as Theano's.
    """

    gates = {"a": "inner gate", "z": "update gate"}

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_gates()

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        a = torch.tanh(((x @ self.W_xa + self.b_a) * h) @ self.W_ha)
        g = softplus(a * h)
        z = hard_sigmoid(x @ self.W_xz + h @ self.W_hz + self.b_z)
        h = (1 - z) * h + z * g
        return h


class DSGU(Cell):
    r"""The deep simple gated unit: an SGU with one more layer, and a candidate that is bounded.

    >>> cell = DSGU(3, 5)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape   # (B, H)
    torch.Size([2, 5])

    .. math::
        a_t &= \tanh(((x_t W_{xa} + b_a) \odot h_{t-1}) W_{ha}) \\
        g_t &= \sigma((a_t \odot h_{t-1}) W_{hg}) \\
        z_t &= \min(1, \max(0, 0.2\, (x_t W_{xz} + h_{t-1} W_{hz} + b_z) + 0.5)) \\
        h_t &= (1 - z_t) \odot h_{t-1} + z_t \odot g_t

    Three products follow each other within a step: deep in time, and slow in a loop.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.

    Source: Gao and Glowacka (2016), Deep Gate Recurrent Neural Network, ACML, arXiv 1604.02910, DSGU; the hard sigmoid
    has slope 0.2, as Theano's.
    """

    gates = {"a": "inner gate", "g": "candidate", "z": "update gate"}

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_gate("a")
        self.add_gate("g", "h")
        self.add_gate("z")

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        a = torch.tanh(((x @ self.W_xa + self.b_a) * h) @ self.W_ha)
        g = torch.sigmoid((a * h) @ self.W_hg)
        z = hard_sigmoid(x @ self.W_xz + h @ self.W_hz + self.b_z)
        h = (1 - z) * h + z * g
        return h


CELLS = {
    "mgu": MGU,
    **{f"mgu{variant}": partial(MGU, variant=variant) for variant in (1, 2, 3)},
    "minimal-rnn": MinimalRNN,
    "ugrnn": UGRNN,
    "sgu": SGU,
    "dsgu": DSGU,
}
