"""Bistable cells: units that can hold one of two values for as long as they like."""

from __future__ import annotations

import torch
from torch import Tensor

from cellwright.cells.cell import Cell
from cellwright.cells.init import ones, zeros


class BRC(Cell):
    r"""The bistable recurrent cell: every unit feeds back on itself, and holds a bit when that feedback exceeds 1.

    >>> cell = BRC(3, 5)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape   # (B, H)
    torch.Size([2, 5])

    .. math::
        a_t &= 1 + \tanh(x_t W_{xa} + w_a \odot h_{t-1} + b_a) \\
        c_t &= \sigma(x_t W_{xc} + w_c \odot h_{t-1} + b_c) \\
        h_t &= c_t \odot h_{t-1} + (1 - c_t) \odot \tanh(x_t W_{xh} + a_t \odot h_{t-1})

    a lies between 0 and 2: above 1 a unit has two stable values, below it has one and forgets. No unit sees another
    within the layer.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.

    Source: Vecoven, Ernst and Drion (2021), PLOS ONE 16(6) e0252676, arXiv 2006.05252, BRC. The gates have biases, and
    the candidate none, as in the authors' code; the paper's equations have none at all (b_a = b_c = 0).
    """

    gates = {"a": "feedback gate", "c": "update gate", "h": "candidate"}
    drawn = {"w_a": ones, "w_c": ones, "b_a": zeros, "b_c": zeros}  # as in the authors' code

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        for gate in "ac":
            self.add_gate(gate, "xb")
            self.add_weight(f"w_{gate}", gate, "recurrent weight", hidden_size)
        self.add_gate("h", "x")

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        a = 1 + torch.tanh(x @ self.W_xa + self.w_a * h + self.b_a)
        c = torch.sigmoid(x @ self.W_xc + self.w_c * h + self.b_c)
        h = c * h + (1 - c) * torch.tanh(x @ self.W_xh + a * h)
        return h


class NBRC(Cell):
    r"""The neuromodulated bistable recurrent cell: all units together set the feedback of each.

    >>> cell = NBRC(3, 5)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape   # (B, H)
    torch.Size([2, 5])

    .. math::
        a_t &= 1 + \tanh(x_t W_{xa} + h_{t-1} W_{ha} + b_a) \\
        c_t &= \sigma(x_t W_{xc} + h_{t-1} W_{hc} + b_c) \\
        h_t &= c_t \odot h_{t-1} + (1 - c_t) \odot \tanh(x_t W_{xh} + a_t \odot h_{t-1})

    A BRC whose vectors w became matrices; beside a GRU, h enters the candidate through its own unit only, and the
    gate on it goes up to 2.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.

    Source: Vecoven, Ernst and Drion (2021), PLOS ONE 16(6) e0252676, arXiv 2006.05252, nBRC. The gates have biases,
    and the candidate none, as in the authors' code; the paper's equations have none at all (b_a = b_c = 0).
    """

    gates = {"a": "feedback gate", "c": "update gate", "h": "candidate"}
    drawn = {"b_a": zeros, "b_c": zeros}  # as in the authors' code

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_gate("a")
        self.add_gate("c")
        self.add_gate("h", "x")

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        a = 1 + torch.tanh(x @ self.W_xa + h @ self.W_ha + self.b_a)
        c = torch.sigmoid(x @ self.W_xc + h @ self.W_hc + self.b_c)
        h = c * h + (1 - c) * torch.tanh(x @ self.W_xh + a * h)
        return h


CELLS = {"brc": BRC, "nbrc": NBRC}
