"""LSTM: long short-term memory with input, forget and output gates, and what keeps its equations but for a few."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from cellwright.cells.cell import Cell, TorchForm, positive
from cellwright.cells.init import chrono, ones, zeros


class LSTM(Cell):
    r"""Long short-term memory: gates decide what enters the cell state, what stays there and what is shown.

    >>> cell = LSTM(3, 5)
    >>> h, c = cell(torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(2, 5))   # both (B, H)

    .. math::
        i_t &= \sigma(x_t W_{xi} + h_{t-1} W_{hi} + b_i) \\
        f_t &= \sigma(x_t W_{xf} + h_{t-1} W_{hf} + b_f) \\
        o_t &= \sigma(x_t W_{xo} + h_{t-1} W_{ho} + b_o) \\
        g_t &= \tanh(x_t W_{xg} + h_{t-1} W_{hg} + b_g) \\
        c_t &= f_t \odot c_{t-1} + i_t \odot g_t \\
        h_t &= o_t \odot \tanh(c_t)

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h and c.
        bias: whether biases exist (default: yes).

    Source: Hochreiter and Schmidhuber (1997), Neural Computation 9(8), with the forget gate of Gers,
    Schmidhuber and Cummins (2000) and no peepholes. Equal to torch.nn.LSTM, whose two biases only ever
    appear as their sum.
    """

    state = ("h", "c")
    gates = {"i": "input gate", "f": "forget gate", "o": "output gate", "g": "cell candidate"}

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        self.bias = bias
        self.add_gates(bias)

    def torch_form(self) -> TorchForm:
        """The kernel of torch.nn.LSTM."""
        return TorchForm("lstm", ("i", "f", "g", "o"))

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i = torch.sigmoid(x @ self.W_xi + h @ self.W_hi + self.b_i)
        f = torch.sigmoid(x @ self.W_xf + h @ self.W_hf + self.b_f)
        o = torch.sigmoid(x @ self.W_xo + h @ self.W_ho + self.b_o)
        g = torch.tanh(x @ self.W_xg + h @ self.W_hg + self.b_g)
        c = f * c + i * g
        h = o * torch.tanh(c)
        return h, c


class ChronoLSTM(LSTM):
    r"""An LSTM whose gates begin so that its units remember for times spread from one step to the longest.

    >>> cell = ChronoLSTM(3, 64, longest=100)
    >>> torch.equal(cell.b_i, -cell.b_f)
    True

    .. math:: b_f \sim \log U(1, T_{max} - 1), \qquad b_i = -b_f

    The equations are those of `LSTM`; only the biases are drawn otherwise.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h and c.
        longest: T_max, the longest dependency that is expected, in steps; more than 2 (default: 100).

    Source: Tallec and Ollivier (2018), arXiv 1804.11188, equation 16.
    """

    def __init__(self, input_size: int, hidden_size: int, longest: float = 100.0) -> None:
        super().__init__(input_size, hidden_size)
        self.longest = longest
        chrono(self, longest)


class LayerNormLSTM(Cell):
    r"""An LSTM whose sums are normalised over their units before the gates see them.

    >>> cell = LayerNormLSTM(3, 5)
    >>> h, c = cell(torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(2, 5))   # both (B, H)

    .. math::
        (\hat x_i, \hat x_f, \hat x_o, \hat x_g) &= N(x_t W_{xi}, x_t W_{xf}, x_t W_{xo}, x_t W_{xg}) \\
        (\hat h_i, \hat h_f, \hat h_o, \hat h_g) &= N(h_{t-1} W_{hi}, h_{t-1} W_{hf}, h_{t-1} W_{ho}, h_{t-1} W_{hg}) \\
        i_t &= \sigma(a_{xi} \odot \hat x_i + a_{hi} \odot \hat h_i + b_i), \text{ likewise } f_t \text{ and } o_t \\
        g_t &= \tanh(a_{xg} \odot \hat x_g + a_{hg} \odot \hat h_g + b_g) \\
        c_t &= f_t \odot c_{t-1} + i_t \odot g_t \\
        h_t &= o_t \odot \tanh(a_c \odot N(c_t) + b_c)

    N takes the mean away and divides by the standard deviation, over all columns of its arguments together: 4H
    for the sums, which are not normalised gate by gate, H for c. The paper's three shifts of a gate (two of its
    norms, and the bias) only ever appear as their sum b.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h and c.

    Source: Ba, Kiros and Hinton (2016), arXiv 1607.06450, the LSTM of the supplementary material; the variance
    is over N columns, not N - 1, and has 1e-5 added.
    """

    state = ("h", "c")
    gates = {**LSTM.gates, "c": "cell state"}
    drawn = {  # so that the norms alone act at first
        **{f"a_{source}{gate}": ones for source in "xh" for gate in "ifog"},
        "a_c": ones,
        "b_c": zeros,
    }

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        for gate in "ifog":
            self.add_weight(f"W_x{gate}", gate, "input weight", input_size, hidden_size)
            self.add_weight(f"W_h{gate}", gate, "recurrent weight", hidden_size, hidden_size)
            self.add_weight(f"a_x{gate}", gate, "input gain", hidden_size)
            self.add_weight(f"a_h{gate}", gate, "recurrent gain", hidden_size)
            self.add_bias(f"b_{gate}", gate, "bias")
        self.add_weight("a_c", "c", "gain", hidden_size)
        self.add_bias("b_c", "c", "bias")

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        xi, xf, xo, xg = _normalised(x @ self.W_xi, x @ self.W_xf, x @ self.W_xo, x @ self.W_xg)
        hi, hf, ho, hg = _normalised(h @ self.W_hi, h @ self.W_hf, h @ self.W_ho, h @ self.W_hg)
        i = torch.sigmoid(self.a_xi * xi + self.a_hi * hi + self.b_i)
        f = torch.sigmoid(self.a_xf * xf + self.a_hf * hf + self.b_f)
        o = torch.sigmoid(self.a_xo * xo + self.a_ho * ho + self.b_o)
        g = torch.tanh(self.a_xg * xg + self.a_hg * hg + self.b_g)
        c = f * c + i * g
        (shown,) = _normalised(c)
        h = o * torch.tanh(self.a_c * shown + self.b_c)
        return h, c


def _normalised(*parts: Tensor) -> tuple[Tensor, ...]:
    """The parts with mean 0 and variance 1 in every row, over the columns of all of them."""
    joint = torch.cat(parts, 1)
    return layer_norm(joint, joint.shape[1:]).chunk(len(parts), 1)


class LSTMP(Cell):
    r"""An LSTM that shows a projection of its output, so that c can be large and the recurrent weights small.

    >>> cell = LSTMP(3, 8, proj_size=5)
    >>> h, c = cell(torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(2, 8))   # (B, P) and (B, H)

    .. math::
        i_t &= \sigma(x_t W_{xi} + h_{t-1} W_{hi} + p_i \odot c_{t-1} + b_i) \\
        f_t &= \sigma(x_t W_{xf} + h_{t-1} W_{hf} + p_f \odot c_{t-1} + b_f) \\
        g_t &= \tanh(x_t W_{xg} + h_{t-1} W_{hg} + b_g) \\
        c_t &= f_t \odot c_{t-1} + i_t \odot g_t \\
        o_t &= \sigma(x_t W_{xo} + h_{t-1} W_{ho} + p_o \odot c_t + b_o) \\
        h_t &= (o_t \odot \tanh(c_t)) W_{mh}

    The state h is what the paper calls r, the recurrent projection; its second projection, which does not
    recur, is left out. Without peepholes these are the equations of torch.nn.LSTM with proj_size.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of c.
        proj_size: columns P of h (default: half of H, at least 1).
        peepholes: whether the gates see the cell state, by the vectors p (default: yes, as in the paper).

    Source: Sak, Senior and Beaufays (2014), arXiv 1402.1128, the LSTMP of section 2.

    Raises:
        CellError: proj_size is not a positive whole number.
    """

    state = ("h", "c")
    gates = {**LSTM.gates, "h": "projection"}

    def __init__(self, input_size: int, hidden_size: int, proj_size: int | None = None, peepholes: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        self.proj_size = max(1, hidden_size // 2) if proj_size is None else positive("proj_size", proj_size)
        self.peepholes = peepholes
        for gate in "ifog":
            self.add_weight(f"W_x{gate}", gate, "input weight", input_size, hidden_size)
            self.add_weight(f"W_h{gate}", gate, "recurrent weight", self.proj_size, hidden_size)
            self.add_bias(f"b_{gate}", gate, "bias")
        for gate in "ifo":
            self.add_bias(f"p_{gate}", gate, "peephole", peepholes)
        self.add_weight("W_mh", "h", "projection", hidden_size, self.proj_size)

    @property
    def output_size(self) -> int:
        """Columns of y and h."""
        return self.proj_size

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Columns of h and c."""
        return (self.proj_size, self.hidden_size)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i = torch.sigmoid(x @ self.W_xi + h @ self.W_hi + self.p_i * c + self.b_i)
        f = torch.sigmoid(x @ self.W_xf + h @ self.W_hf + self.p_f * c + self.b_f)
        g = torch.tanh(x @ self.W_xg + h @ self.W_hg + self.b_g)
        c = f * c + i * g
        o = torch.sigmoid(x @ self.W_xo + h @ self.W_ho + self.p_o * c + self.b_o)
        m = o * torch.tanh(c)  # (B, H)
        h = m @ self.W_mh  # (B, P)
        return h, c


CELLS = {"lstm": LSTM, "lstm-chrono": ChronoLSTM, "lstm-layernorm": LayerNormLSTM, "lstmp": LSTMP}
