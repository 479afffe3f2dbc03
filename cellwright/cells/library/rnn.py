"""RNN: the simple recurrent network of Elman."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from cellwright.cells.cell import Cell, TorchForm
from cellwright.errors import CellError

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}


class RNN(Cell):
    r"""The simple recurrent network: the new hidden state is a squashed sum of input and old state.

    >>> cell = RNN(3, 5)
    >>> h = cell(torch.zeros(2, 3), torch.zeros(2, 5))   # (B, H)
    >>> [name for name, _ in cell.named_parameters()]
    ['W_xh', 'W_hh', 'b_h']

    .. math:: h_t = \phi(x_t W_{xh} + h_{t-1} W_{hh} + b_h)

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.
        nonlinearity: phi, "tanh" (default) or "relu".
        bias: whether b_h exists (default: yes).

    Source: Elman (1990), Finding Structure in Time, Cognitive Science 14(2); relu: Le, Jaitly and Hinton
    (2015), arXiv 1504.00941. Equal to torch.nn.RNN, whose two biases only ever appear as their sum b_h.
    """

    state = ("h",)
    gates = {"h": "hidden state"}

    def __init__(self, input_size: int, hidden_size: int, nonlinearity: str = "tanh", bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        if nonlinearity not in ACTIVATIONS:
            raise CellError("nonlinearity is 'tanh' or 'relu'", repr(nonlinearity), "write one of those names")
        self.nonlinearity = nonlinearity
        self.bias = bias
        self.add_gates(bias)

    def torch_form(self) -> TorchForm:
        """The kernel of torch.nn.RNN."""
        return TorchForm(f"rnn_{self.nonlinearity}", ("h",))

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        phi = ACTIVATIONS[self.nonlinearity]
        h = phi(x @ self.W_xh + h @ self.W_hh + self.b_h)
        return h


CELLS = {"rnn": RNN, "rnn-relu": partial(RNN, nonlinearity="relu")}
