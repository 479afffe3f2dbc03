"""Strongly typed cells: the state is only ever scaled and added to, never multiplied by a matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from cellwright.cells.cell import Cell


class TRNN(Cell):
    r"""The strongly typed RNN: a moving mean of linear features, with a rate for each that the input sets.

    >>> cell = TRNN(3, 5)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape   # (B, H)
    torch.Size([2, 5])

    .. math::
        z_t &= x_t W_{xz} \\
        f_t &= \sigma(x_t W_{xf} + b_f) \\
        h_t &= f_t \odot h_{t-1} + (1 - f_t) \odot z_t

    A column of h is measured in the units of the same column of z at every step, whatever the weights.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.

    Source: Balduzzi and Ghifary (2016), Strongly-Typed Recurrent Neural Networks, arXiv 1602.02218, T-RNN.
    """

    state = ("h",)
    gates = {"z": "candidate", "f": "forget gate"}

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_weight("W_xz", "z", "input weight", input_size, hidden_size)
        self.add_weight("W_xf", "f", "input weight", input_size, hidden_size)
        self.add_bias("b_f", "f", "bias")

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        z = x @ self.W_xz
        f = torch.sigmoid(x @ self.W_xf + self.b_f)
        h = f * h + (1 - f) * z
        return h


GATES = {"z": "candidate", "f": "forget gate", "o": "output gate"}


def _add_gates_of_two_inputs(cell: Cell) -> None:
    """W_x{gate} and W_p{gate} (I, H), for this input and the one before, and b_{gate} (H)."""
    for gate in GATES:
        cell.add_weight(f"W_x{gate}", gate, "input weight", cell.input_size, cell.hidden_size)
        cell.add_weight(f"W_p{gate}", gate, "weight of the input before", cell.input_size, cell.hidden_size)
        cell.add_bias(f"b_{gate}", gate, "bias")


class TGRU(Cell):
    r"""The strongly typed GRU: gates of the last two inputs decide what enters a memory that is shown whole.

    >>> cell = TGRU(3, 5)
    >>> h, p = cell(torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(2, 3))   # (B, H) and (B, I)

    .. math::
        z_t &= x_t W_{xz} + x_{t-1} W_{pz} + b_z \\
        f_t &= \sigma(x_t W_{xf} + x_{t-1} W_{pf} + b_f) \\
        o_t &= \tanh(x_t W_{xo} + x_{t-1} W_{po} + b_o) \\
        h_t &= f_t \odot h_{t-1} + z_t \odot o_t

    The state p is the input of the step before, zero before the first.

    Args:
        input_size: columns I of x and p.
        hidden_size: columns H of h.

    Source: Balduzzi and Ghifary (2016), Strongly-Typed Recurrent Neural Networks, arXiv 1602.02218, T-GRU.
    """

    state = ("h", "p")
    gates = GATES

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        _add_gates_of_two_inputs(self)

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Columns of h and p."""
        return (self.hidden_size, self.input_size)

    def step(self, x: Tensor, h: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        z = x @ self.W_xz + p @ self.W_pz + self.b_z
        f = torch.sigmoid(x @ self.W_xf + p @ self.W_pf + self.b_f)
        o = torch.tanh(x @ self.W_xo + p @ self.W_po + self.b_o)
        h = f * h + z * o
        return h, x


class TLSTM(Cell):
    r"""The strongly typed LSTM: gates of the last two inputs decide what a memory keeps and what of it is shown.

    >>> cell = TLSTM(3, 5)
    >>> h, c, p = cell(torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(2, 3))   # (B, H), (B, H) and (B, I)

    .. math::
        z_t &= x_t W_{xz} + x_{t-1} W_{pz} + b_z \\
        f_t &= \sigma(x_t W_{xf} + x_{t-1} W_{pf} + b_f) \\
        o_t &= \tanh(x_t W_{xo} + x_{t-1} W_{po} + b_o) \\
        c_t &= f_t \odot c_{t-1} + (1 - f_t) \odot z_t \\
        h_t &= c_t \odot o_t

    Only c is carried on; h is the output, and nothing in the cell sees it again. The state p is the input of
    the step before, zero before the first.

    Args:
        input_size: columns I of x and p.
        hidden_size: columns H of c and h.

    Source: Balduzzi and Ghifary (2016), Strongly-Typed Recurrent Neural Networks, arXiv 1602.02218, T-LSTM.
    """

    state = ("c", "p")
    gates = GATES

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        _add_gates_of_two_inputs(self)

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Columns of c and p."""
        return (self.hidden_size, self.input_size)

    def step(self, x: Tensor, c: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = x @ self.W_xz + p @ self.W_pz + self.b_z
        f = torch.sigmoid(x @ self.W_xf + p @ self.W_pf + self.b_f)
        o = torch.tanh(x @ self.W_xo + p @ self.W_po + self.b_o)
        c = f * c + (1 - f) * z
        h = c * o
        return h, c, x


CELLS = {"t-rnn": TRNN, "t-gru": TGRU, "t-lstm": TLSTM}
