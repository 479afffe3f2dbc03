"""Networks whose state changes slowly, so that gradients last: antisymmetric RNNs, FastRNN and FastGRNN."""

from __future__ import annotations

import torch
from torch import Tensor

from cellwright.cells.cell import Cell
from cellwright.cells.init import constant, skew


class AntisymmetricRNN(Cell):
    r"""The antisymmetric RNN: a small step along a flow that neither grows nor shrinks.

    >>> cell = AntisymmetricRNN(3, 5, epsilon=0.1)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape   # (B, H)
    torch.Size([2, 5])

    .. math:: h_t = h_{t-1} + \epsilon \tanh(h_{t-1} (W_{hh} - W_{hh}^\top - \gamma I) + x_t W_{xh} + b_h)

    The eigenvalues of an antisymmetric matrix are imaginary: states turn, they do not explode or vanish. gamma
    makes up for what the Euler step of length epsilon adds.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.
        epsilon: length of a step (default 0.01).
        gamma: how much is diffused, at least 0 (default 0.01).

    Source: Chang, Chen, Haber and Chi (2019), arXiv 1902.09689, AntisymmetricRNN without a gate. W_hh (H, H) is free;
    its upper and its lower triangle only appear as their difference.
    """

    gates = {"h": "hidden state"}
    drawn = {"W_hh": skew}  # the paper's: N(0, 1/H), so that the flow turns at a speed that does not depend on H

    def __init__(self, input_size: int, hidden_size: int, epsilon: float = 0.01, gamma: float = 0.01) -> None:
        super().__init__(input_size, hidden_size)
        self.epsilon, self.gamma = epsilon, gamma
        self.add_gates()

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        turn = h @ (self.W_hh - self.W_hh.T) - self.gamma * h
        h = h + self.epsilon * torch.tanh(turn + x @ self.W_xh + self.b_h)
        return h


class GatedAntisymmetricRNN(AntisymmetricRNN):
    r"""The antisymmetric RNN with a gate that says how far each unit goes.

    >>> cell = GatedAntisymmetricRNN(3, 5)
    >>> [name for name, _ in cell.named_parameters()]
    ['W_xh', 'W_hh', 'b_h', 'W_xz', 'b_z']

    .. math::
        A &= W_{hh} - W_{hh}^\top - \gamma I \\
        z_t &= \sigma(h_{t-1} A + x_t W_{xz} + b_z) \\
        h_t &= h_{t-1} + \epsilon\, z_t \odot \tanh(h_{t-1} A + x_t W_{xh} + b_h)

    Gate and candidate share the matrix of h, so that the flow keeps its eigenvalues near the imaginary axis.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.
        epsilon: length of a step (default 0.01).
        gamma: how much is diffused, at least 0 (default 0.01).

    Source: Chang, Chen, Haber and Chi (2019), arXiv 1902.09689, AntisymmetricRNN with gating.
    """

    gates = {"h": "hidden state", "z": "input gate"}

    def __init__(self, input_size: int, hidden_size: int, epsilon: float = 0.01, gamma: float = 0.01) -> None:
        Cell.__init__(self, input_size, hidden_size)
        self.epsilon, self.gamma = epsilon, gamma
        self.add_gate("h")
        self.add_gate("z", "xb")

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        turn = h @ (self.W_hh - self.W_hh.T) - self.gamma * h
        z = torch.sigmoid(turn + x @ self.W_xz + self.b_z)
        h = h + self.epsilon * z * torch.tanh(turn + x @ self.W_xh + self.b_h)
        return h


class FastRNN(Cell):
    r"""FastRNN: a simple recurrent network with a weighted residual connection, of two numbers.

    >>> cell = FastRNN(3, 5)
    >>> round(torch.sigmoid(cell.alpha).item(), 3), round(torch.sigmoid(cell.beta).item(), 3)
    (0.047, 0.953)

    .. math::
        g_t &= \tanh(x_t W_{xh} + h_{t-1} W_{hh} + b_h) \\
        h_t &= \sigma(\alpha)\, g_t + \sigma(\beta)\, h_{t-1}

    Two more parameters than an RNN bound how much its gradients grow or shrink from step to step.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.

    Source: Kusupati et al. (2018), arXiv 1901.02358, FastRNN; alpha and beta are kept between 0 and 1 by a sigmoid,
    as in the authors' code (EdgeML), which also begins them at -3 and 3. Nonlinearity: tanh.
    """

    gates = {"h": "hidden state"}
    drawn = {"alpha": constant(-3.0), "beta": constant(3.0)}  # the state changes slowly at first

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_gates()
        self.add_weight("alpha", "h", "share of the new")
        self.add_weight("beta", "h", "share of the old")

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        g = torch.tanh(x @ self.W_xh + h @ self.W_hh + self.b_h)
        h = torch.sigmoid(self.alpha) * g + torch.sigmoid(self.beta) * h
        return h


class FastGRNN(Cell):
    r"""FastGRNN: a gate that costs no matrices, for it reads what the candidate reads.

    >>> cell = FastGRNN(3, 5)
    >>> [name for name, _ in cell.named_parameters()]
    ['W_xh', 'W_hh', 'b_h', 'b_z', 'zeta', 'nu']

    .. math::
        a_t &= x_t W_{xh} + h_{t-1} W_{hh} \\
        z_t &= \sigma(a_t + b_z) \\
        g_t &= \tanh(a_t + b_h) \\
        h_t &= (\sigma(\zeta) (1 - z_t) + \sigma(\nu)) \odot g_t + z_t \odot h_{t-1}

    As many weights as an RNN, near a GRU in what it learns: made for microcontrollers, where the paper also makes
    W_xh and W_hh low-rank, sparse and of few bits, which is not done here.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.

    Source: Kusupati et al. (2018), arXiv 1901.02358, FastGRNN; zeta and nu are kept between 0 and 1 by a sigmoid, as
    in the authors' code (EdgeML), which also begins them at 1 and -4.
    """

    gates = {"h": "candidate", "z": "gate"}
    drawn = {"zeta": constant(1.0), "nu": constant(-4.0)}  # (1 - z) and little more at first: nearly a GRU

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_gate("h")
        self.add_gate("z", "b")
        self.add_weight("zeta", "h", "share of the new")
        self.add_weight("nu", "h", "share of the new, at least")

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        a = x @ self.W_xh + h @ self.W_hh
        z = torch.sigmoid(a + self.b_z)
        g = torch.tanh(a + self.b_h)
        h = (torch.sigmoid(self.zeta) * (1 - z) + torch.sigmoid(self.nu)) * g + z * h
        return h


CELLS = {
    "antisymmetric": AntisymmetricRNN,
    "antisymmetric-gated": GatedAntisymmetricRNN,
    "fastrnn": FastRNN,
    "fastgrnn": FastGRNN,
}
