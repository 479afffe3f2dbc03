"""Oscillators: cells that are steps through time of a differential equation, coRNN, UnICORNN, LEM."""

from __future__ import annotations

import torch
from torch import Tensor

from cellwright.cells.cell import Cell
from cellwright.cells.init import between, zeros


class CoRNN(Cell):
    r"""Coupled damped oscillators that the input drives; gradients neither explode nor vanish for small steps.

    >>> cell = CoRNN(3, 5)
    >>> y, z = cell(torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(2, 5))   # both (B, H)

    .. math::
        z_t &= z_{t-1} + \Delta t \, (\tanh(x_t W_{xz} + y_{t-1} W_{yz} + z_{t-1} W_{zz} + b_z)
               - \gamma y_{t-1} - \epsilon z_{t-1}) \\
        y_t &= y_{t-1} + \Delta t \, z_t

    y is where the oscillators are, z how fast they move, of y'' = tanh(...) - gamma y - epsilon y'.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of y and z.
        dt: the step in time (default: 0.042).
        gamma: how strongly an oscillator is drawn back; its frequency (default: 2.7).
        epsilon: how strongly it is damped (default: 4.7).

    Source: Rusch and Mishra (2021), ICLR, arXiv 2010.00951, the scheme that is explicit in the damping (z of the
    step before), as in its code, whose settings for sequential MNIST are the defaults.
    """

    state = ("y", "z")
    gates = {"z": "velocity"}

    def __init__(
        self, input_size: int, hidden_size: int, dt: float = 0.042, gamma: float = 2.7, epsilon: float = 4.7
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.dt, self.gamma, self.epsilon = dt, gamma, epsilon
        self.add_weight("W_xz", "z", "input weight", input_size, hidden_size)
        self.add_weight("W_yz", "z", "recurrent weight", hidden_size, hidden_size)
        self.add_weight("W_zz", "z", "recurrent weight of z", hidden_size, hidden_size)
        self.add_bias("b_z", "z", "bias")

    def step(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        force = torch.tanh(x @ self.W_xz + y @ self.W_yz + z @ self.W_zz + self.b_z)
        z = z + self.dt * (force - self.gamma * y - self.epsilon * z)
        y = y + self.dt * z
        return y, z


class UnICORNN(Cell):
    r"""Undamped oscillators, each alone within a layer, with a step in time that every one of them learns.

    >>> cell = UnICORNN(3, 5)
    >>> y, z = cell(torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(2, 5))   # both (B, H)

    .. math::
        z_t &= z_{t-1} - \Delta t \, \sigma(c) \odot (\tanh(w \odot y_{t-1} + x_t W_{xz} + b_z) + \alpha y_{t-1}) \\
        y_t &= y_{t-1} + \Delta t \, \sigma(c) \odot z_t

    The scheme is symplectic and can be run backwards; units meet only in the next layer. The recurrent weight
    is a vector, so a step costs no product.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of y and z.
        dt: the largest step in time (default: 0.19).
        alpha: how strongly an oscillator is drawn back (default: 30.65).

    Source: Rusch and Mishra (2021), ICML, arXiv 2103.05487, one layer without the residual connections of a
    stack; the defaults are its code's settings for permuted sequential MNIST.
    """

    state = ("y", "z")
    gates = {"z": "velocity", "c": "step in time"}
    drawn = {"w": between(0.0, 1.0), "c": between(-0.1, 0.1), "b_z": zeros}  # as the authors draw them

    def __init__(self, input_size: int, hidden_size: int, dt: float = 0.19, alpha: float = 30.65) -> None:
        super().__init__(input_size, hidden_size)
        self.dt, self.alpha = dt, alpha
        self.add_weight("W_xz", "z", "input weight", input_size, hidden_size)
        self.add_weight("w", "z", "recurrent weight", hidden_size)
        self.add_bias("b_z", "z", "bias")
        self.add_weight("c", "c", "weight", hidden_size)

    def step(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        dt = self.dt * torch.sigmoid(self.c)  # (H)
        z = z - dt * (torch.tanh(self.w * y + x @ self.W_xz + self.b_z) + self.alpha * y)
        y = y + dt * z
        return y, z


class LEM(Cell):
    r"""Long expressive memory: two states, each with steps in time that the input and the state choose.

    >>> cell = LEM(3, 5)
    >>> y, z = cell(torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(2, 5))   # both (B, H)

    .. math::
        \Delta t_t &= \Delta t \, \sigma(x_t W_{x1} + y_{t-1} W_{y1} + b_1) \\
        \overline{\Delta t}_t &= \Delta t \, \sigma(x_t W_{x2} + y_{t-1} W_{y2} + b_2) \\
        z_t &= (1 - \Delta t_t) \odot z_{t-1} + \Delta t_t \odot \tanh(x_t W_{xz} + y_{t-1} W_{yz} + b_z) \\
        y_t &= (1 - \overline{\Delta t}_t) \odot y_{t-1}
               + \overline{\Delta t}_t \odot \tanh(x_t W_{xy} + z_t W_{zy} + b_y)

    The output y sees the memory z of this step through a matrix. It learns how fast each unit moves.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of y and z.
        dt: the largest step in time (default: 1).

    Source: Rusch et al. (2022), Long Expressive Memory for Sequence Modeling, ICLR, arXiv 2110.04744, equation 3.
    """

    state = ("y", "z")
    gates = {"1": "step of z", "2": "step of y", "z": "memory", "y": "output"}

    def __init__(self, input_size: int, hidden_size: int, dt: float = 1.0) -> None:
        super().__init__(input_size, hidden_size)
        self.dt = dt
        for gate, source in (("1", "y"), ("2", "y"), ("z", "y"), ("y", "z")):
            self.add_weight(f"W_x{gate}", gate, "input weight", input_size, hidden_size)
            self.add_weight(f"W_{source}{gate}", gate, "recurrent weight", hidden_size, hidden_size)
            self.add_bias(f"b_{gate}", gate, "bias")

    def step(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        dt_z = self.dt * torch.sigmoid(x @ self.W_x1 + y @ self.W_y1 + self.b_1)
        dt_y = self.dt * torch.sigmoid(x @ self.W_x2 + y @ self.W_y2 + self.b_2)
        z = (1 - dt_z) * z + dt_z * torch.tanh(x @ self.W_xz + y @ self.W_yz + self.b_z)
        y = (1 - dt_y) * y + dt_y * torch.tanh(x @ self.W_xy + z @ self.W_zy + self.b_y)
        return y, z


CELLS = {"cornn": CoRNN, "unicornn": UnICORNN, "lem": LEM}
