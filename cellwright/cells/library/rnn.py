"""RNN: the simple recurrent networks, of Elman, of Jordan, with an identity, and with units that stand alone."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from cellwright.cells.cell import Cell, TorchForm
from cellwright.cells.init import between, identity, normal, zeros
from cellwright.errors import CellError

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}


def checked(nonlinearity: str) -> str:
    """The name of a nonlinearity, if it is one."""
    if nonlinearity not in ACTIVATIONS:
        raise CellError("nonlinearity is 'tanh' or 'relu'", repr(nonlinearity), "write one of those names")
    return nonlinearity


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
        self.nonlinearity = checked(nonlinearity)
        self.bias = bias
        self.add_gates(bias)

    def torch_form(self) -> TorchForm:
        """The kernel of torch.nn.RNN."""
        return TorchForm(f"rnn_{self.nonlinearity}", ("h",))

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        phi = ACTIVATIONS[self.nonlinearity]
        h = phi(x @ self.W_xh + h @ self.W_hh + self.b_h)
        return h


class IRNN(RNN):
    r"""The simple recurrent network with relu whose recurrent weight begins as the identity.

    >>> IRNN(3, 2).W_hh.tolist()
    [[1.0, 0.0], [0.0, 1.0]]

    .. math:: h_t = \max(0, x_t W_{xh} + h_{t-1} W_{hh} + b_h)

    At first the state is carried on as it is and its gradient neither grows nor shrinks: a simple network that can
    learn over long spans, for as long as W_hh stays near where it began.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.
        bias: whether b_h exists (default: yes).

    Source: Le, Jaitly and Hinton (2015), arXiv 1504.00941, section 3. Equal to torch.nn.RNN with relu, but for how
    its weights are drawn.
    """

    drawn = {"W_xh": normal(0.001), "W_hh": identity, "b_h": zeros}  # what the name means: these values make the cell

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size, "relu", bias)


class IndRNN(Cell):
    r"""The independently recurrent network: every unit remembers only itself.

    >>> cell = IndRNN(3, 5)
    >>> cell.u.shape, cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape
    (torch.Size([5]), torch.Size([2, 5]))

    .. math:: h_t = \phi(x_t W_{xh} + u \odot h_{t-1} + b_h)

    A step has no product of h, only a vector u; units meet in the layer above. How far back a unit reads is plain
    to see: its gradient is multiplied by its u at every step.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.
        nonlinearity: phi, "relu" (default) or "tanh".

    Source: Li, Li, Cook, Zhu and Gao (2018), arXiv 1803.04831, equation 2, where phi is relu.
    """

    gates = {"h": "hidden state"}
    drawn = {"u": between(0.0, 1.0)}  # section 3: |u| up to 1 neither explodes nor, near 1, vanishes

    def __init__(self, input_size: int, hidden_size: int, nonlinearity: str = "relu") -> None:
        super().__init__(input_size, hidden_size)
        self.nonlinearity = checked(nonlinearity)
        self.add_gate("h", "xb")
        self.add_weight("u", "h", "recurrent weight", hidden_size)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        phi = ACTIVATIONS[self.nonlinearity]
        h = phi(x @ self.W_xh + self.u * h + self.b_h)
        return h


class JordanRNN(Cell):
    r"""The simple recurrent network of Jordan: what returns is the output, not the hidden layer.

    >>> cell = JordanRNN(3, 5)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape   # y (B, H)
    torch.Size([2, 5])

    .. math::
        h_t &= \tanh(x_t W_{xh} + y_{t-1} W_{yh} + b_h) \\
        y_t &= \tanh(h_t W_{hy} + b_y)

    All that is remembered has to be shown: where the outputs are known, as in control, they can be fed in training.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of the hidden layer h and of the output y, which is the state.

    Source: Jordan (1986), Serial Order: A Parallel Distributed Processing Approach, UCSD ICS report 8604; here with
    tanh for both layers, and state units that hold the last output only (there they may decay more slowly).
    """

    state = ("y",)
    gates = {"h": "hidden layer", "y": "output"}

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_gate("h", "xb")
        self.add_weight("W_yh", "h", "recurrent weight", hidden_size, hidden_size)
        self.add_gate("y", "hb")

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        h = torch.tanh(x @ self.W_xh + y @ self.W_yh + self.b_h)
        y = torch.tanh(h @ self.W_hy + self.b_y)
        return y


class LeakyRNN(Cell):
    r"""The leaky integrator network: every unit moves part of the way to what the equation says, at a pace it learns.

    >>> cell = LeakyRNN(3, 5)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape
    torch.Size([2, 5])

    .. math::
        a &= \sigma(b_a) \\
        h_t &= (1 - a) \odot h_{t-1} + a \odot \tanh(x_t W_{xh} + h_{t-1} W_{hh} + b_h)

    A small a makes a slow unit. Unlike a gate, a is the same at every step.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.

    Source: Jaeger, Lukosevicius, Popovici and Siewert (2007), Neural Networks 20(3), equation 2 with a step of 1, one
    pace a for gain and leak, and trained weights; there a is one number, here each unit learns its own.
    """

    gates = {"h": "hidden state", "a": "pace"}

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_gate("h")
        self.add_gate("a", "b")

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        a = torch.sigmoid(self.b_a)
        h = (1 - a) * h + a * torch.tanh(x @ self.W_xh + h @ self.W_hh + self.b_h)
        return h


CELLS = {
    "rnn": RNN,
    "rnn-relu": partial(RNN, nonlinearity="relu"),
    "irnn": IRNN,
    "indrnn": IndRNN,
    "jordan": JordanRNN,
    "leaky-rnn": LeakyRNN,
}
