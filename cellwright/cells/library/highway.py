"""Recurrent highways: cells that are deep within a step, or carry x past themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from cellwright.cells.cell import Cell
from cellwright.cells.init import constant, ones
from cellwright.cells.lift import Lift
from cellwright.errors import CellError


class RecurrentHighway(Cell):
    r"""The recurrent highway network: several layers between one step and the next, each with a way around it.

    >>> cell = RecurrentHighway(3, 5, depth=4)
    >>> cell.W_hh.shape, cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape
    (torch.Size([4, 5, 5]), torch.Size([2, 5]))

    .. math::
        s_0 &= h_{t-1} \\
        g_l &= \tanh([l = 1]\, x_t W_{xh} + s_{l-1} W_{hh,l} + b_{h,l}) \\
        t_l &= \sigma([l = 1]\, x_t W_{xt} + s_{l-1} W_{ht,l} + b_{t,l}) \\
        s_l &= t_l \odot g_l + (1 - t_l) \odot s_{l-1} \\
        h_t &= s_L

    x enters the first of the L layers only. What a layer adds and what it carries sum to one: the coupled form,
    which the paper uses for all its results.

    Args:
        input_size: columns I of x.
        hidden_size: columns H of h.
        depth: layers L between two steps (default 3). Weights are W_hh, W_ht (L, H, H) and b_h, b_t (L, H).

    Source: Zilly, Srivastava, Koutnik and Schmidhuber (2017), arXiv 1607.03474, equations 6 to 8, with the carry gate
    coupled as c = 1 - t.
    """

    gates = {"h": "candidate", "t": "transform gate"}
    drawn = {"b_t": constant(-2.0)}  # the state is carried through all layers at first, as in the paper

    def __init__(self, input_size: int, hidden_size: int, depth: int = 3) -> None:
        super().__init__(input_size, hidden_size)
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
            raise CellError("depth is a whole number of at least 1", f"depth={depth!r}", "write depth=3, say")
        self.depth = depth
        for gate in self.gates:
            self.add_gate(gate, "x")
            self.add_weight(f"W_h{gate}", gate, "recurrent weight", depth, hidden_size, hidden_size)
            self.add_weight(f"b_{gate}", gate, "bias", depth, hidden_size)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        g = torch.tanh(x @ self.W_xh + h @ self.W_hh[0] + self.b_h[0])
        t = torch.sigmoid(x @ self.W_xt + h @ self.W_ht[0] + self.b_t[0])
        h = t * g + (1 - t) * h
        for layer in range(1, self.depth):
            g = torch.tanh(h @ self.W_hh[layer] + self.b_h[layer])
            t = torch.sigmoid(h @ self.W_ht[layer] + self.b_t[layer])
            h = t * g + (1 - t) * h
        return h


class IntersectionRNN(Lift):
    r"""The intersection RNN (+RNN): one gate carries h through time, another carries x through depth.

    >>> cell = IntersectionRNN(5, 5)
    >>> y, h = cell(torch.zeros(2, 5), torch.zeros(2, 5))   # both (B, H); h is the state

    .. math::
        u_t &= \max(0, x_t W_{xu} + h_{t-1} W_{hu} + b_u) \\
        g_t &= \tanh(x_t W_{xg} + h_{t-1} W_{hg} + b_g) \\
        p_t &= \sigma(x_t W_{xp} + h_{t-1} W_{hp} + b_p) \\
        q_t &= \sigma(x_t W_{xq} + h_{t-1} W_{hq} + b_q) \\
        y_t &= p_t \odot x_t P + (1 - p_t) \odot u_t \\
        h_t &= q_t \odot h_{t-1} + (1 - q_t) \odot g_t

    Made for deep stacks: its output y is not its state, and with p = 1 a layer shows what is below it. P is the
    identity where I = H, as the paper has it, else a learned matrix (I, H).

    Args:
        input_size: columns I of x.
        hidden_size: columns H of y and h.

    Source: Collins, Sohl-Dickstein and Sussillo (2017), arXiv 1611.09913, the +RNN, with relu for the output (there
    y^in, here u) and tanh for the state (h^in, here g); p and q are there g^y and g^h.
    """

    gates = {"u": "output candidate", "g": "state candidate", "p": "output gate", "q": "update gate"}
    drawn = {"b_p": ones, "b_q": ones}  # the paper's forget bias b^fg, added to both gates

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.add_gates()

    def step(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        u = torch.relu(x @ self.W_xu + h @ self.W_hu + self.b_u)
        g = torch.tanh(x @ self.W_xg + h @ self.W_hg + self.b_g)
        p = torch.sigmoid(x @ self.W_xp + h @ self.W_hp + self.b_p)
        q = torch.sigmoid(x @ self.W_xq + h @ self.W_hq + self.b_q)
        y = p * self.lift(x) + (1 - p) * u
        h = q * h + (1 - q) * g
        return y, h


CELLS = {"recurrent-highway": RecurrentHighway, "intersection-rnn": IntersectionRNN}
