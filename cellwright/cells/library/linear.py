"""Cells whose gates see x (nearly) alone, so that a step has no product of the state: SRU, QRNN and minGRU."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from cellwright.cells.cell import Cell
from cellwright.cells.lift import Lift
from cellwright.errors import CellError


class SRU(Lift):
    r"""The simple recurrent unit: a light recurrence of every unit by itself, and a highway for x around it.

    >>> cell = SRU(3, 5)
    >>> h, c = cell(torch.zeros(2, 3), torch.zeros(2, 5))   # both (B, H); c is the state
    >>> [name for name, _ in SRU(5, 5).named_parameters()]
    ['W_xc', 'W_xf', 'b_f', 'v_f', 'W_xr', 'b_r', 'v_r']

    .. math::
        f_t &= \sigma(x_t W_{xf} + v_f \odot c_{t-1} + b_f) \\
        r_t &= \sigma(x_t W_{xr} + v_r \odot c_{t-1} + b_r) \\
        c_t &= f_t \odot c_{t-1} + (1 - f_t) \odot x_t W_{xc} \\
        h_t &= r_t \odot c_t + (1 - r_t) \odot \alpha\, x_t P

    All products are of x and leave the loop over time. P is the identity where I = H, as the paper has it, else
    a learned matrix (I, H). The output h is not a state.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h and c.
        alpha: factor of x on the highway (default 1). For b_r = 0 the paper's scaling correction is 3 ** 0.5, which
            keeps the variance of x through many layers.

    Source: Lei, Zhang, Wang, Dai and Artzi (2018), EMNLP, arXiv 1709.02755v5, equations 1 to 4 (both gates see
    c_{t-1}, and c enters h without a nonlinearity, unlike version 1).
    """

    state = ("c",)
    gates = {"c": "candidate", "f": "forget gate", "r": "reset gate"}

    def __init__(self, input_size: int, hidden_size: int, alpha: float = 1.0) -> None:
        super().__init__(input_size, hidden_size)
        self.alpha = alpha
        self.add_gate("c", "x")
        for gate in "fr":
            self.add_gate(gate, "xb")
            self.add_weight(f"v_{gate}", gate, "recurrent weight", hidden_size)

    def step(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        f = torch.sigmoid(x @ self.W_xf + self.v_f * c + self.b_f)
        r = torch.sigmoid(x @ self.W_xr + self.v_r * c + self.b_r)
        c = f * c + (1 - f) * (x @ self.W_xc)
        h = r * c + (1 - r) * self.alpha * self.lift(x)
        return h, c


class QRNN(Cell):
    r"""The quasi-recurrent network with a window of one step: gates from x alone, and a pooling over time.

    >>> h, c = QRNN(3, 5)(torch.zeros(2, 3), torch.zeros(2, 5))   # both (B, H); c is the state
    >>> QRNN(3, 5, pooling="f")(torch.zeros(2, 3), torch.zeros(2, 5)).shape
    torch.Size([2, 5])

    .. math::
        z_t &= \tanh(x_t W_{xz} + b_z) \\
        f_t, o_t, i_t &= \sigma(x_t W_{xf} + b_f), \sigma(x_t W_{xo} + b_o), \sigma(x_t W_{xi} + b_i) \\
        c_t &= f_t \odot c_{t-1} + (1 - f_t) \odot z_t   && \text{f, fo} \\
        c_t &= f_t \odot c_{t-1} + i_t \odot z_t         && \text{ifo} \\
        h_t &= o_t \odot c_t                             && \text{fo, ifo; with f: } h_t = c_t

    An LSTM without any product of its state: all that is left in the loop over time are two products a unit.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h and c.
        pooling: "f", "fo" (default) or "ifo", by the gates it has.

    Source: Bradbury, Merity, Xiong and Socher (2017), arXiv 1611.01576, equations 3 to 5. The window of the
    convolution over time is 1 (give two steps side by side in x for 2), and every gate has a bias, which the paper
    leaves out.
    """

    state = ("c",)
    gates = {"z": "candidate", "f": "forget gate", "o": "output gate", "i": "input gate"}

    def __init__(self, input_size: int, hidden_size: int, pooling: str = "fo") -> None:
        super().__init__(input_size, hidden_size)
        if pooling not in ("f", "fo", "ifo"):
            raise CellError("pooling is 'f', 'fo' or 'ifo'", repr(pooling), "write one of those names")
        self.pooling = pooling
        for gate in "z" + pooling:
            self.add_gate(gate, "xb")

    def step(self, x: Tensor, c: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        z = torch.tanh(x @ self.W_xz + self.b_z)
        f = torch.sigmoid(x @ self.W_xf + self.b_f)
        i = torch.sigmoid(x @ self.W_xi + self.b_i) if "i" in self.pooling else 1 - f
        c = f * c + i * z
        if "o" not in self.pooling:
            return c
        h = torch.sigmoid(x @ self.W_xo + self.b_o) * c
        return h, c


class MinGRU(Cell):
    r"""minGRU: a GRU whose gate and candidate see x alone.

    >>> cell = MinGRU(3, 5)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape   # (B, H)
    torch.Size([2, 5])

    .. math::
        z_t &= \sigma(x_t W_{xz} + b_z) \\
        g_t &= x_t W_{xh} + b_h                        && \text{plain} \\
        g_t &= \phi(x_t W_{xh} + b_h), \quad
               \phi(a) = a + \tfrac12 \text{ for } a \ge 0, \text{ else } \sigma(a)   && \text{positive} \\
        h_t &= (1 - z_t) \odot h_{t-1} + z_t \odot g_t

    h is a weighted mean of candidates, which parallel machines compute as a scan. The positive form is the one that
    the paper trains by a scan in logarithms, for which g has to be above 0.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.
        positive: whether the candidate is the log-space form's (default: no, the plain one).

    Source: Feng, Tung, Ahmed, Bengio and Hajimirsadeghi (2024), arXiv 2410.01201, minGRU (plain) and its log-space
    version in the appendix (positive); both maps have biases.
    """

    gates = {"z": "update gate", "h": "candidate"}

    def __init__(self, input_size: int, hidden_size: int, positive: bool = False) -> None:
        super().__init__(input_size, hidden_size)
        self.positive = positive
        self.add_gate("z", "xb")
        self.add_gate("h", "xb")

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        z = torch.sigmoid(x @ self.W_xz + self.b_z)
        g = x @ self.W_xh + self.b_h
        if self.positive:
            g = torch.where(g >= 0, g + 0.5, torch.sigmoid(g))
        h = (1 - z) * h + z * g
        return h


CELLS = {
    "sru": SRU,
    "qrnn": QRNN,
    "qrnn-f": partial(QRNN, pooling="f"),
    "qrnn-ifo": partial(QRNN, pooling="ifo"),
    "mingru": MinGRU,
    "mingru-positive": partial(MinGRU, positive=True),
}
