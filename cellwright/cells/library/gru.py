"""GRU: the gated recurrent unit, in both published forms of its reset gate, with layer norm, and light (Li-GRU)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from cellwright.cells.cell import Cell, TorchForm
from cellwright.cells.init import ones, orthogonal, zeros


class GRU(Cell):
    r"""The gated recurrent unit: reset and update gates decide how much of the past enters and stays.

    >>> cell = GRU(3, 5, reset_after=False)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape   # (B, H)
    torch.Size([2, 5])

    .. math::
        r_t &= \sigma(x_t W_{xr} + h_{t-1} W_{hr} + b_r) \\
        z_t &= \sigma(x_t W_{xz} + h_{t-1} W_{hz} + b_z) \\
        n_t &= \tanh(x_t W_{xn} + (r_t \odot h_{t-1}) W_{hn} + b_n)               && \text{reset before} \\
        n_t &= \tanh(x_t W_{xn} + b_n + r_t \odot (h_{t-1} W_{hn} + b_{hn}))      && \text{reset after} \\
        h_t &= z_t \odot h_{t-1} + (1 - z_t) \odot n_t

    The two forms differ in where the reset gate acts. *Before* the product (the tutorials, and version 3 of
    the paper), r hides units of h from the candidate, and the product has to wait for r: two dependent
    products a step. *After* the product (torch.nn.GRU, cuDNN, and version 1 of the paper), r scales the
    product's columns, so that all three products of h can be done at once; it needs a bias b_hn of its own
    inside the brackets. With r = 1 they are equal; trained weights do not carry over from one to the other.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.
        reset_after: the form of torch.nn.GRU (True, default) or of the tutorials (False).
        bias: whether biases exist (default: yes).

    Source: Cho et al. (2014), arXiv 1406.1078, equations 5 to 8; z keeps the old state, as there.
    """

    state = ("h",)
    gates = {"r": "reset gate", "z": "update gate", "n": "candidate"}

    def __init__(self, input_size: int, hidden_size: int, reset_after: bool = True, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        self.reset_after = reset_after
        self.bias = bias
        self.add_gates(bias)
        if reset_after:
            self.add_bias("b_hn", "n", "recurrent bias", bias)

    def torch_form(self) -> TorchForm | None:
        """The kernel of torch.nn.GRU, which knows only the form with the reset after the product."""
        return TorchForm("gru", ("r", "z", "n")) if self.reset_after else None

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        r = torch.sigmoid(x @ self.W_xr + h @ self.W_hr + self.b_r)
        z = torch.sigmoid(x @ self.W_xz + h @ self.W_hz + self.b_z)
        if self.reset_after:
            n = torch.tanh(x @ self.W_xn + self.b_n + r * (h @ self.W_hn + self.b_hn))
        else:
            n = torch.tanh(x @ self.W_xn + (r * h) @ self.W_hn + self.b_n)
        h = z * h + (1 - z) * n
        return h


class LayerNormGRU(Cell):
    r"""The gated recurrent unit with layer norm on every product, of x and of h apart.

    >>> cell = LayerNormGRU(3, 5)
    >>> cell(torch.ones(2, 3), torch.zeros(2, 5)).shape   # (B, H)
    torch.Size([2, 5])

    .. math::
        (\hat z_t, \hat r_t) &= LN(h_{t-1} (W_{hz}, W_{hr}); a_1, b_1) + LN(x_t (W_{xz}, W_{xr}); a_2, b_2) \\
        n_t &= \tanh(LN(x_t W_{xn}; a_3, b_3) + \sigma(\hat r_t) \odot LN(h_{t-1} W_{hn}; a_4, b_4)) \\
        h_t &= (1 - \sigma(\hat z_t)) \odot h_{t-1} + \sigma(\hat z_t) \odot n_t \\
        LN(v; a, b) &= a \odot (v - \text{mean}(v)) / \sqrt{\text{var}(v) + 10^{-5}} + b

    The two gates are normed together, as one vector of 2 H columns with z before r (a_1, b_1, a_2, b_2 are 2 H wide),
    the candidate's parts each by itself. The reset acts after the product, and z lets the candidate in.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h; at least 2, for one column has no variance.

    Source: Ba, Kiros and Hinton (2016), arXiv 1607.06450, supplementary material, "GRU"; var divides by the number of
    columns.
    """

    gates = {"z": "update gate", "r": "reset gate", "n": "candidate"}
    drawn = {
        **dict.fromkeys(("a_1", "a_2", "a_3", "a_4"), ones),  # a norm and no more, at first
        **dict.fromkeys(("b_1", "b_2", "b_3", "b_4"), zeros),
    }

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        for gate in self.gates:
            self.add_gate(gate, "xh")
        for k, gate, columns in ((1, "z", 2), (2, "z", 2), (3, "n", 1), (4, "n", 1)):
            self.add_weight(f"a_{k}", gate, "gain", columns * hidden_size)
            self.add_weight(f"b_{k}", gate, "bias", columns * hidden_size)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        from_h = torch.cat([h @ self.W_hz, h @ self.W_hr], 1)  # (B, 2H)
        from_x = torch.cat([x @ self.W_xz, x @ self.W_xr], 1)  # (B, 2H)
        both = normed(from_h, self.a_1, self.b_1) + normed(from_x, self.a_2, self.b_2)
        z, r = torch.sigmoid(both).chunk(2, 1)
        n = torch.tanh(normed(x @ self.W_xn, self.a_3, self.b_3) + r * normed(h @ self.W_hn, self.a_4, self.b_4))
        h = (1 - z) * h + z * n
        return h


def normed(v: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """Layer norm over the columns of every row."""
    return layer_norm(v, v.shape[-1:], gain, bias)


class LiGRU(Cell):
    r"""The light gated recurrent unit: a GRU without a reset gate, and with relu.

    >>> cell = LiGRU(3, 5)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape   # (B, H)
    torch.Size([2, 5])

    .. math::
        z_t &= \sigma(x_t W_{xz} + h_{t-1} W_{hz} + b_z) \\
        n_t &= \max(0, x_t W_{xn} + h_{t-1} W_{hn} + b_n) \\
        h_t &= z_t \odot h_{t-1} + (1 - z_t) \odot n_t

    The paper puts batch norm on x W_xz and x W_xn, which keeps the relu in bounds while it trains. It lets rows of
    a batch see each other, and there is none here: norm x instead, or a trained net's norm becomes part of W_x and b,
    which makes this cell exactly that net as it is used.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.

    Source: Ravanelli, Brakel, Omologo and Bengio (2018), Light Gated Recurrent Units for Speech Recognition, IEEE
    TETCI 2(2), arXiv 1803.10225, Li-GRU, with biases in the place of the batch norm.
    """

    gates = {"z": "update gate", "n": "candidate"}
    drawn = {"W_hz": orthogonal, "W_hn": orthogonal}  # as the paper trains it: relu does not bound the state

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_gates()

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        z = torch.sigmoid(x @ self.W_xz + h @ self.W_hz + self.b_z)
        n = torch.relu(x @ self.W_xn + h @ self.W_hn + self.b_n)
        h = z * h + (1 - z) * n
        return h


CELLS = {
    "gru": GRU,
    "gru-reset-before": partial(GRU, reset_after=False),
    "gru-layernorm": LayerNormGRU,
    "gru-light": LiGRU,
}
