"""Peephole LSTMs: the vanilla LSTM with its eight variants of 'A Search Space Odyssey', and the LSTM of 1997."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import torch
from torch import Tensor

from cellwright.cells.cell import Cell
from cellwright.cells.library.lstm import LSTM
from cellwright.errors import CellError

PARTS = ("input gate", "forget gate", "output gate", "input activation", "output activation", "peepholes")


class PeepholeLSTM(Cell):
    r"""The LSTM whose gates look at the cell state through vectors of weights, with or without each of its parts.

    >>> cell = PeepholeLSTM(3, 5)
    >>> h, c = cell(torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(2, 5))   # both (B, H)
    >>> [name for name, _ in PeepholeLSTM(3, 5, without=("forget gate", "output gate", "peepholes")).named_parameters()]
    ['W_xi', 'W_hi', 'b_i', 'W_xg', 'W_hg', 'b_g']

    .. math::
        i_t &= \sigma(x_t W_{xi} + h_{t-1} W_{hi} + p_i \odot c_{t-1} + b_i) \\
        f_t &= \sigma(x_t W_{xf} + h_{t-1} W_{hf} + p_f \odot c_{t-1} + b_f)  && \text{or } 1 - i_t \text{, coupled} \\
        g_t &= \tanh(x_t W_{xg} + h_{t-1} W_{hg} + b_g) \\
        c_t &= f_t \odot c_{t-1} + i_t \odot g_t \\
        o_t &= \sigma(x_t W_{xo} + h_{t-1} W_{ho} + p_o \odot c_t + b_o) \\
        h_t &= o_t \odot \tanh(c_t)

    A gate that a variant goes without is 1, an activation the identity, and its weights do not exist. The
    output gate sees the new cell state, the others the old one. Without peepholes it is `LSTM`.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h and c.
        without: which of "input gate", "forget gate", "output gate", "input activation", "output activation"
            and "peepholes" are left out (default: none).
        coupled: whether f = 1 - i (default: no).

    Source: Gers and Schmidhuber (2000), Recurrent Nets that Time and Count; as the vanilla LSTM with the
    variants NIG, NFG, NOG, NIAF, NOAF, NP and, coupled, CIFG of Greff et al. (2017), arXiv 1503.04069, whose
    block input z is g here.

    Raises:
        CellError: `without` names something else, or what is coupled.
    """

    state = ("h", "c")
    gates = LSTM.gates

    def __init__(self, input_size: int, hidden_size: int, without: Collection[str] = (), coupled: bool = False) -> None:
        super().__init__(input_size, hidden_size)
        _check(without, coupled)
        self.without = frozenset(without)
        self.coupled = coupled
        for gate in (gate for gate, words in LSTM.gates.items() if self.has(words)):
            self.add_weight(f"W_x{gate}", gate, "input weight", input_size, hidden_size)
            self.add_weight(f"W_h{gate}", gate, "recurrent weight", hidden_size, hidden_size)
            if gate != "g" and self.has("peepholes"):
                self.add_weight(f"p_{gate}", gate, "peephole", hidden_size)
            self.add_bias(f"b_{gate}", gate, "bias")

    def has(self, part: str) -> bool:
        """Whether the cell has this part, with weights of its own where it is a gate."""
        return part not in self.without and not (self.coupled and part == "forget gate")

    def gate(self, name: str, x: Tensor, h: Tensor, c: Tensor) -> Tensor | float:
        """The gate, or 1 where the cell goes without it."""
        if not self.has(self.gates[name]):
            return 1.0
        total = x @ getattr(self, f"W_x{name}") + h @ getattr(self, f"W_h{name}") + getattr(self, f"b_{name}")
        return torch.sigmoid(total + getattr(self, f"p_{name}") * c if self.has("peepholes") else total)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i = self.gate("i", x, h, c)
        f = 1 - i if self.coupled else self.gate("f", x, h, c)
        g = x @ self.W_xg + h @ self.W_hg + self.b_g
        if self.has("input activation"):
            g = torch.tanh(g)
        c = f * c + i * g
        o = self.gate("o", x, h, c)
        h = o * (torch.tanh(c) if self.has("output activation") else c)
        return h, c


def _check(without: Collection[str], coupled: bool) -> None:
    if isinstance(without, str) or not set(without) <= set(PARTS):
        raise CellError(
            f"an LSTM goes without any of: {', '.join(PARTS)}", f"without={without!r}", 'write without=("peepholes",)'
        )
    both = {"input gate", "forget gate"} & set(without)
    if coupled and both:
        raise CellError(
            "coupled gates are the input gate and 1 minus it",
            f"coupled=True without the {' and the '.join(sorted(both))}",
            "leave out coupled, or leave out the gate's name from without",
        )


class FullGateLSTM(Cell):
    r"""The peephole LSTM whose gates also see all gates of the step before.

    >>> cell = FullGateLSTM(3, 5)
    >>> h, c, i, f, o = cell(torch.zeros(2, 3), *cell.initial_state(2))   # all (B, H)

    .. math::
        i_t &= \sigma(x_t W_{xi} + h_{t-1} W_{hi} + i_{t-1} W_{ii} + f_{t-1} W_{fi} + o_{t-1} W_{oi}
               + p_i \odot c_{t-1} + b_i) \\
        f_t &= \sigma(x_t W_{xf} + h_{t-1} W_{hf} + i_{t-1} W_{if} + f_{t-1} W_{ff} + o_{t-1} W_{of}
               + p_f \odot c_{t-1} + b_f) \\
        g_t &= \tanh(x_t W_{xg} + h_{t-1} W_{hg} + b_g) \\
        c_t &= f_t \odot c_{t-1} + i_t \odot g_t \\
        o_t &= \sigma(x_t W_{xo} + h_{t-1} W_{ho} + i_{t-1} W_{io} + f_{t-1} W_{fo} + o_{t-1} W_{oo}
               + p_o \odot c_t + b_o) \\
        h_t &= o_t \odot \tanh(c_t)

    The gates are states, zero before the first step. In the paper it did not help, at nine matrices more.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of every state.

    Source: Greff et al. (2017), arXiv 1503.04069, variant FGR (full gate recurrence), peepholes included.
    """

    state = ("h", "c", "i", "f", "o")
    gates = LSTM.gates

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_gates()
        for gate in "ifo":
            for source in "ifo":
                self.add_weight(f"W_{source}{gate}", gate, f"recurrent weight of {source}", hidden_size, hidden_size)
            self.add_weight(f"p_{gate}", gate, "peephole", hidden_size)

    def step(self, x: Tensor, h: Tensor, c: Tensor, i: Tensor, f: Tensor, o: Tensor) -> tuple[Tensor, ...]:
        for_i = i @ self.W_ii + f @ self.W_fi + o @ self.W_oi
        for_f = i @ self.W_if + f @ self.W_ff + o @ self.W_of
        for_o = i @ self.W_io + f @ self.W_fo + o @ self.W_oo
        i = torch.sigmoid(x @ self.W_xi + h @ self.W_hi + for_i + self.p_i * c + self.b_i)
        f = torch.sigmoid(x @ self.W_xf + h @ self.W_hf + for_f + self.p_f * c + self.b_f)
        g = torch.tanh(x @ self.W_xg + h @ self.W_hg + self.b_g)
        c = f * c + i * g
        o = torch.sigmoid(x @ self.W_xo + h @ self.W_ho + for_o + self.p_o * c + self.b_o)
        h = o * torch.tanh(c)
        return h, c, i, f, o


class LSTM1997(Cell):
    r"""The first LSTM: an input and an output gate around a memory that never forgets.

    >>> cell = LSTM1997(3, 5)
    >>> h, c = cell(torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(2, 5))   # both (B, H)

    .. math::
        i_t &= \sigma(x_t W_{xi} + h_{t-1} W_{hi} + b_i) \\
        o_t &= \sigma(x_t W_{xo} + h_{t-1} W_{ho} + b_o) \\
        g_t &= 4 \sigma(x_t W_{xg} + h_{t-1} W_{hg} + b_g) - 2 \\
        c_t &= c_{t-1} + i_t \odot g_t \\
        h_t &= o_t \odot (2 \sigma(c_t) - 1)

    The squashing functions are the paper's: g from -2 to 2, h from -1 to 1. What enters stays for good, and
    gradients flow back along c undiminished (the constant error carousel).

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h and c, which are the paper's memory cells, one a block.

    Source: Hochreiter and Schmidhuber (1997), Neural Computation 9(8), section 4 and appendix A.1; the hidden
    layer is of memory cells alone, and gates see x and h but not each other. The paper cuts gradients off at
    the gates; here they flow everywhere.
    """

    state = ("h", "c")
    gates = {"i": "input gate", "o": "output gate", "g": "cell candidate"}

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_gates()

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i = torch.sigmoid(x @ self.W_xi + h @ self.W_hi + self.b_i)
        o = torch.sigmoid(x @ self.W_xo + h @ self.W_ho + self.b_o)
        g = 4 * torch.sigmoid(x @ self.W_xg + h @ self.W_hg + self.b_g) - 2
        c = c + i * g
        h = o * (2 * torch.sigmoid(c) - 1)
        return h, c


CELLS = {
    "lstm-1997": LSTM1997,
    "lstm-peephole": PeepholeLSTM,
    "lstm-nig": partial(PeepholeLSTM, without=("input gate",)),
    "lstm-nfg": partial(PeepholeLSTM, without=("forget gate",)),
    "lstm-nog": partial(PeepholeLSTM, without=("output gate",)),
    "lstm-niaf": partial(PeepholeLSTM, without=("input activation",)),
    "lstm-noaf": partial(PeepholeLSTM, without=("output activation",)),
    "lstm-cifg": partial(PeepholeLSTM, coupled=True),
    "lstm-fgr": FullGateLSTM,
}
