"""Cells with a memory beside what they show that is not an LSTM's: sLSTM, the NAS cell, SCRN, MC-LSTM."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from cellwright.cells.cell import Cell, positive
from cellwright.cells.init import constant, identity, zeros
from cellwright.errors import CellError


class SLSTM(Cell):
    r"""An LSTM with an exponential input gate, whose memory is a mean of what came in, weighed by the gates.

    >>> cell = SLSTM(3, 5)
    >>> h, c, n, m = cell(torch.zeros(2, 3), *cell.initial_state(2))   # all (B, H)

    .. math::
        \tilde i_t &= x_t W_{xi} + h_{t-1} W_{hi} + b_i \\
        \log f_t &= \log \sigma(x_t W_{xf} + h_{t-1} W_{hf} + b_f)
                    && \text{or } x_t W_{xf} + h_{t-1} W_{hf} + b_f \text{, "exp"} \\
        z_t &= \tanh(x_t W_{xz} + h_{t-1} W_{hz} + b_z) \\
        o_t &= \sigma(x_t W_{xo} + h_{t-1} W_{ho} + b_o) \\
        m_t &= \max(\log f_t + m_{t-1}, \tilde i_t) \\
        c_t &= \exp(\log f_t + m_{t-1} - m_t) \odot c_{t-1} + \exp(\tilde i_t - m_t) \odot z_t \\
        n_t &= \exp(\log f_t + m_{t-1} - m_t) \odot n_{t-1} + \exp(\tilde i_t - m_t) \\
        h_t &= o_t \odot c_t / n_t

    An input can outweigh all that was stored before it, which a sigmoid cannot do. The stabiliser m only keeps
    the exponentials in range: it scales c and n alike and h does not depend on it.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of every state: h, cell c, normaliser n, stabiliser m; all begin with 0.
        forget: "sigmoid" (default) or "exp", the two forget gates that the paper allows.

    Source: Beck et al. (2024), xLSTM, arXiv 2405.04517, sLSTM in its stabilised form with one head, without the
    convolution, norm and projections of its block.

    Raises:
        CellError: `forget` is neither.
    """

    state = ("h", "c", "n", "m")
    gates = {"i": "input gate", "f": "forget gate", "z": "cell candidate", "o": "output gate"}

    def __init__(self, input_size: int, hidden_size: int, forget: str = "sigmoid") -> None:
        super().__init__(input_size, hidden_size)
        if forget not in ("sigmoid", "exp"):
            raise CellError("the forget gate is 'sigmoid' or 'exp'", repr(forget), "write one of those names")
        self.forget = forget
        self.add_gates()

    def step(self, x: Tensor, h: Tensor, c: Tensor, n: Tensor, m: Tensor) -> tuple[Tensor, ...]:
        log_i = x @ self.W_xi + h @ self.W_hi + self.b_i
        log_f = x @ self.W_xf + h @ self.W_hf + self.b_f
        if self.forget == "sigmoid":
            log_f = logsigmoid(log_f)
        z = torch.tanh(x @ self.W_xz + h @ self.W_hz + self.b_z)
        o = torch.sigmoid(x @ self.W_xo + h @ self.W_ho + self.b_o)
        kept = log_f + m
        m = torch.maximum(kept, log_i)
        i = torch.exp(log_i - m)
        f = torch.exp(kept - m)
        c = f * c + i * z
        n = f * n + i
        h = o * c / n
        return h, c, n, m


class NASCell(Cell):
    r"""The cell that a search by reinforcement learning found best at predicting words.

    >>> cell = NASCell(3, 5)
    >>> h, c = cell(torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(2, 5))   # both (B, H)

    .. math::
        x_k &= x_t W_{xk}, \qquad h_k = h_{t-1} W_{hk} + b_k, \qquad k = 0 \dots 7 \\
        u_0 &= \tanh(\sigma(x_0 + h_0) \odot \text{relu}(x_1 + h_1)) \\
        u_1 &= \tanh(\sigma(x_2 + h_2) + \text{relu}(x_3 \odot h_3)) \\
        u_2 &= \tanh(\tanh(x_4 + h_4) \odot \sigma(x_5 + h_5)) \\
        u_3 &= \sigma(\tanh(x_6 + h_6) + \sigma(x_7 + h_7)) \\
        c_t &= \tanh(u_0 + c_{t-1}) \odot u_1 \\
        h_t &= \tanh(c_t \odot \tanh(u_2 + u_3))

    A tree of eight leaves, each of which sees x and h; c joins it at one place.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h and c.
        bias: whether biases exist (default: no, as in TensorFlow).

    Source: Zoph and Le (2017), Neural Architecture Search with Reinforcement Learning, arXiv 1611.01578, figure 8,
    in the form of TensorFlow's NASCell, which alone says what the drawing leaves open; without projection.
    """

    state = ("h", "c")
    gates = {str(leaf): f"leaf {leaf}" for leaf in range(8)}

    def __init__(self, input_size: int, hidden_size: int, bias: bool = False) -> None:
        super().__init__(input_size, hidden_size)
        self.bias = bias
        self.add_gates(bias)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        leaf0 = torch.sigmoid(x @ self.W_x0 + h @ self.W_h0 + self.b_0)
        leaf1 = torch.relu(x @ self.W_x1 + h @ self.W_h1 + self.b_1)
        leaf2 = torch.sigmoid(x @ self.W_x2 + h @ self.W_h2 + self.b_2)
        leaf3 = torch.relu((x @ self.W_x3) * (h @ self.W_h3 + self.b_3))
        leaf4 = torch.tanh(x @ self.W_x4 + h @ self.W_h4 + self.b_4)
        leaf5 = torch.sigmoid(x @ self.W_x5 + h @ self.W_h5 + self.b_5)
        leaf6 = torch.tanh(x @ self.W_x6 + h @ self.W_h6 + self.b_6)
        leaf7 = torch.sigmoid(x @ self.W_x7 + h @ self.W_h7 + self.b_7)
        u0 = torch.tanh(leaf0 * leaf1)
        u1 = torch.tanh(leaf2 + leaf3)
        u2 = torch.tanh(leaf4 * leaf5)
        u3 = torch.sigmoid(leaf6 + leaf7)
        c = torch.tanh(u0 + c) * u1
        h = torch.tanh(c * torch.tanh(u2 + u3))
        return h, c


class SCRN(Cell):
    r"""A simple recurrent network beside a context that changes slowly, as a moving mean of the input.

    >>> cell = SCRN(3, 5, context_size=4)
    >>> y, h, s = cell(torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(2, 4))
    >>> y.shape   # (B, H + C)
    torch.Size([2, 9])

    .. math::
        s_t &= (1 - \alpha) x_t W_{xs} + \alpha s_{t-1} \\
        h_t &= \sigma(s_t W_{sh} + x_t W_{xh} + h_{t-1} W_{hh}) \\
        y_t &= (h_t, s_t)

    The context has nothing but a fixed decay between one step and the next, so what it learns reaches far
    back. A linear layer on y is the paper's output U h + V s.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.
        context_size: columns C of s (default: 40).
        alpha: the share of the context that stays in every step (default: 0.95).

    Source: Mikolov et al. (2014), Learning Longer Memory in Recurrent Neural Networks, arXiv 1412.7753, with the
    fixed alpha and, as there, no biases.

    Raises:
        CellError: context_size is not a positive whole number.
    """

    state = ("h", "s")
    gates = {"s": "context", "h": "hidden state"}

    def __init__(self, input_size: int, hidden_size: int, context_size: int = 40, alpha: float = 0.95) -> None:
        super().__init__(input_size, hidden_size)
        self.context_size = positive("context_size", context_size)
        self.alpha = alpha
        self.add_weight("W_xs", "s", "input weight", input_size, context_size)
        self.add_weight("W_sh", "h", "context weight", context_size, hidden_size)
        self.add_weight("W_xh", "h", "input weight", input_size, hidden_size)
        self.add_weight("W_hh", "h", "recurrent weight", hidden_size, hidden_size)

    @property
    def output_size(self) -> int:
        """Columns of y, which is h beside s."""
        return self.hidden_size + self.context_size

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Columns of h and s."""
        return (self.hidden_size, self.context_size)

    def step(self, x: Tensor, h: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        s = (1 - self.alpha) * (x @ self.W_xs) + self.alpha * s
        h = torch.sigmoid(s @ self.W_sh + x @ self.W_xh + h @ self.W_hh)
        y = torch.cat([h, s], 1)
        return y, h, s


class MCLSTM(Cell):
    r"""A cell that conserves mass: what flows in is stored, moved about and let out, and none of it is lost.

    >>> cell = MCLSTM(3, 5)   # a column of mass, two others
    >>> y, c = cell(torch.rand(2, 3), torch.rand(2, 5))   # both (B, H)

    .. math::
        (x_t, a_t) &= \text{the input: M columns of mass, and the rest} \\
        s_t &= c_{t-1} / |c_{t-1}|_1 \\
        i_t &= \text{softmax}(a_t W_{ai} + s_t W_{ci} + b_i) && \text{over H, a row for each column of mass} \\
        o_t &= \sigma(a_t W_{ao} + s_t W_{co} + b_o) \\
        m_t &= c_{t-1} \, \text{softmax}(B_r) + x_t i_t && \text{softmax over the columns of each row} \\
        c_t &= (1 - o_t) \odot m_t \\
        y_t &= o_t \odot m_t

    Every row of the two softmaxes sums to 1, so the sum of c and of all y is the sum of all mass that came in.
    An empty memory, whose norm is 0, gives s = 0.

    Args:
        input_size: columns of the input: mass_size of mass, not negative, then at least one of other quantities.
        hidden_size: columns H of c and y.
        mass_size: M (default: 1).

    Source: Hoedt et al. (2021), MC-LSTM, ICML, arXiv 2101.05186, with a redistribution softmax(B_r) that is the
    same in all steps; B_r begins as the identity and b_o at -3, so that mass stays at first, as in its code.

    Raises:
        CellError: the input has no columns beside those of mass.
    """

    state = ("c",)
    gates = {"i": "input gate", "o": "output gate", "r": "redistribution"}
    drawn = {"B_r": identity, "b_i": zeros, "b_o": constant(-3.0)}

    def __init__(self, input_size: int, hidden_size: int, mass_size: int = 1) -> None:
        super().__init__(input_size, hidden_size)
        others = input_size - mass_size
        if mass_size < 1 or others < 1:
            raise CellError(
                "the input is at least one column of mass, then at least one of other quantities",
                f"input_size={input_size}, mass_size={mass_size}",
                f"write MCLSTM({max(mass_size, 1) + 1}, {hidden_size}, mass_size={max(mass_size, 1)}) or more columns",
            )
        self.mass_size = mass_size
        for gate, columns in (("i", mass_size * hidden_size), ("o", hidden_size)):
            self.add_weight(f"W_a{gate}", gate, "input weight", others, columns)
            self.add_weight(f"W_c{gate}", gate, "memory weight", hidden_size, columns)
            self.add_weight(f"b_{gate}", gate, "bias", columns)
        self.add_weight("B_r", "r", "recurrent weight", hidden_size, hidden_size)

    def step(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        mass, a = x[:, : self.mass_size], x[:, self.mass_size :]
        norm = c.abs().sum(1, keepdim=True)
        s = c / torch.where(norm == 0, 1.0, norm)
        i = a @ self.W_ai + s @ self.W_ci + self.b_i
        i = torch.softmax(i.view(-1, self.mass_size, self.hidden_size), 2)  # (B, M, H)
        o = torch.sigmoid(a @ self.W_ao + s @ self.W_co + self.b_o)
        m = c @ torch.softmax(self.B_r, 1) + (mass.unsqueeze(2) * i).sum(1)
        y = o * m
        c = m - y
        return y, c


CELLS = {"slstm": SLSTM, "nas": NASCell, "scrn": SCRN}  # MCLSTM wants columns of mass, which no text has
