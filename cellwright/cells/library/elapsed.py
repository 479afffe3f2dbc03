"""Cells for series with gaps, which are told what was measured and how long ago: GRU-D."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cellwright.cells.cell import Cell
from cellwright.cells.init import between, zeros
from cellwright.errors import CellError


class GRUD(Cell):
    r"""A GRU for values that are sometimes missing: what was last seen fades to the mean, and so does the state.

    >>> cell = GRUD(6, 5, mean=[0.5, -1.0])   # two values, whether each was measured, how long since it last was
    >>> h, d = cell(torch.zeros(2, 6), torch.zeros(2, 5), torch.zeros(2, 2))   # (B, H) and (B, F)

    .. math::
        (v_t, m_t, \delta_t) &= \text{the input, three times F columns} \\
        \gamma_{v,t} &= \exp(-\max(0, w_{\delta v} \odot \delta_t + b_{\delta v})) \\
        \gamma_{h,t} &= \exp(-\max(0, \delta_t W_{\delta h} + b_{\delta h})) \\
        x_t &= m_t \odot v_t + (1 - m_t) \odot (\gamma_{v,t} \odot v_{t'} + (1 - \gamma_{v,t}) \odot \bar v) \\
        k_t &= \gamma_{h,t} \odot h_{t-1} \\
        z_t &= \sigma(x_t W_{xz} + k_t W_{hz} + m_t W_{mz} + b_z) \\
        r_t &= \sigma(x_t W_{xr} + k_t W_{hr} + m_t W_{mr} + b_r) \\
        n_t &= \tanh(x_t W_{xn} + (r_t \odot k_t) W_{hn} + m_t W_{mn} + b_n) \\
        h_t &= (1 - z_t) \odot k_t + z_t \odot n_t

    v_{t'} is the last measured value. Its state is d = v_{t'} - v_mean, so that a state of zeros means that
    nothing was measured yet and the mean stands in: x = m v + (1 - m)(v_mean + gamma_v d).

    Args:
        input_size: columns of the input, 3F: F values (any number where one is missing), F times 1 or 0 for
            measured or missing, and F times since that value was last measured, in a unit of your own.
        hidden_size: columns H of h.
        mean: v_mean, the mean of the measured values in the training data: one number, or F (default: 0). Kept
            in the buffer `mean` (F), and saved with the weights.

    Source: Che et al. (2018), Recurrent Neural Networks for Multivariate Time Series with Missing Values,
    Scientific Reports 8, arXiv 1606.01865, GRU-D with both decays; the decay of the input has a diagonal weight.

    Raises:
        CellError: the columns are not three times a number of values, or `mean` has not as many numbers.
    """

    state = ("h", "d")
    gates = {"d": "decay", "z": "update gate", "r": "reset gate", "n": "candidate"}
    drawn = {  # our choice: a rate below 0 would be cut to 0 and never learn
        **dict.fromkeys(("w_dv", "W_dh"), between(0.0, 0.1)),
        **dict.fromkeys(("b_dv", "b_dh"), zeros),
    }

    def __init__(self, input_size: int, hidden_size: int, mean: float | Sequence[float] = 0.0) -> None:
        super().__init__(input_size, hidden_size)
        values = self.values = input_size // 3
        given = [float(mean)] * values if isinstance(mean, (int, float)) else [float(one) for one in mean]
        if input_size != 3 * values or len(given) != values:
            raise CellError(
                "the input of GRU-D is F values, F marks and F times, and `mean` is one number or F",
                f"input_size={input_size}, mean={mean!r}",
                f"write GRUD({3 * max(values, 1)}, {hidden_size}) for F={max(values, 1)}",
            )
        self.register_buffer("mean", torch.tensor(given))
        self.add_weight("w_dv", "d", "input decay", values)
        self.add_weight("b_dv", "d", "input decay bias", values)
        self.add_weight("W_dh", "d", "state decay", values, hidden_size)
        self.add_bias("b_dh", "d", "state decay bias")
        for gate in "zrn":
            self.add_weight(f"W_x{gate}", gate, "input weight", values, hidden_size)
            self.add_weight(f"W_h{gate}", gate, "recurrent weight", hidden_size, hidden_size)
            self.add_weight(f"W_m{gate}", gate, "mask weight", values, hidden_size)
            self.add_bias(f"b_{gate}", gate, "bias")

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Columns of h and d."""
        return (self.hidden_size, self.values)

    def step(self, x: Tensor, h: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        v, m, elapsed = x.chunk(3, 1)  # (B, F) each
        decay_v = torch.exp(-torch.relu(self.w_dv * elapsed + self.b_dv))  # (B, F)
        decay_h = torch.exp(-torch.relu(elapsed @ self.W_dh + self.b_dh))  # (B, H)
        seen = m * v + (1 - m) * (self.mean + decay_v * d)
        d = m * (v - self.mean) + (1 - m) * d
        k = decay_h * h
        z = torch.sigmoid(seen @ self.W_xz + k @ self.W_hz + m @ self.W_mz + self.b_z)
        r = torch.sigmoid(seen @ self.W_xr + k @ self.W_hr + m @ self.W_mr + self.b_r)
        n = torch.tanh(seen @ self.W_xn + (r * k) @ self.W_hn + m @ self.W_mn + self.b_n)
        h = (1 - z) * k + z * n
        return h, d


CELLS: dict[str, type[Cell]] = {}  # the input has parts with meanings of their own, which a text has not
