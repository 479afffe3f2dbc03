"""Cells as people write them from the formulas: plain torch modules, one product for each gate; loops over them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

State = tuple[Tensor, ...]


class Written(nn.Module):
    """The weights W_x (I, H), W_h (H, H) and b (H) of every gate; subclasses write the formulas."""

    gates = ""
    states = 1

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        for gate in self.gates:
            self.draw(f"W_x{gate}", input_size, hidden_size)
            self.draw(f"W_h{gate}", hidden_size, hidden_size)
            self.draw(f"b_{gate}", hidden_size)

    def draw(self, name: str, *shape: int) -> None:
        """A parameter, uniform as torch.nn's."""
        bound = self.hidden_size**-0.5
        self.register_parameter(name, nn.Parameter(torch.empty(shape).uniform_(-bound, bound)))

    def stack(self, kind: str) -> Tensor:
        """The weights of all gates next to each other."""
        return torch.cat([getattr(self, f"{kind}{gate}") for gate in self.gates], dim=-1)


class LSTM(Written):
    """Hochreiter and Schmidhuber 1997, with the forget gate of 2000."""

    gates = "ifog"
    states = 2

    def forward(self, x: Tensor, state: State) -> State:
        h, c = state
        i = torch.sigmoid(x @ self.W_xi + h @ self.W_hi + self.b_i)
        f = torch.sigmoid(x @ self.W_xf + h @ self.W_hf + self.b_f)
        o = torch.sigmoid(x @ self.W_xo + h @ self.W_ho + self.b_o)
        g = torch.tanh(x @ self.W_xg + h @ self.W_hg + self.b_g)
        c = f * c + i * g
        return o * torch.tanh(c), c

    def by_hand(self, x: Tensor, state: State) -> Tensor:
        """The loop that someone writes who wants it fast: inputs' products before it, one product a step."""
        h, c = state
        units = self.hidden_size
        weight, outputs = self.stack("W_h"), []
        for a in torch.addmm(self.stack("b_"), x.flatten(0, 1), self.stack("W_x")).view(*x.shape[:2], -1):
            a = torch.addmm(a, h, weight)
            i, f, o = torch.sigmoid(a[:, : 3 * units]).chunk(3, dim=1)
            c = f * c + i * torch.tanh(a[:, 3 * units :])
            h = o * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs)


class GRUResetBefore(Written):
    """The gated recurrent unit of the tutorials: the reset gate acts before the product, which waits for it."""

    gates = "rzn"

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        r = torch.sigmoid(x @ self.W_xr + h @ self.W_hr + self.b_r)
        z = torch.sigmoid(x @ self.W_xz + h @ self.W_hz + self.b_z)
        n = torch.tanh(x @ self.W_xn + (r * h) @ self.W_hn + self.b_n)
        return z * h + (1 - z) * n

    def by_hand(self, x: Tensor, h: Tensor) -> Tensor:
        """Inputs' products before the loop, two products a step."""
        units = self.hidden_size
        weight, outputs = torch.cat([self.W_hr, self.W_hz], dim=1), []
        for a in torch.addmm(self.stack("b_"), x.flatten(0, 1), self.stack("W_x")).view(*x.shape[:2], -1):
            r, z = torch.sigmoid(torch.addmm(a[:, : 2 * units], h, weight)).chunk(2, dim=1)
            n = torch.tanh(torch.addmm(a[:, 2 * units :], r * h, self.W_hn))
            h = torch.lerp(n, h, z)
            outputs.append(h)
        return torch.stack(outputs)


class LayerNormLSTM(Written):
    """An LSTM whose gates and cell state are normalised over their units: Ba, Kiros and Hinton 2016."""

    gates = "ifog"
    states = 2

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.norm_i, self.norm_f = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.norm_o, self.norm_g = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.norm_c = nn.LayerNorm(hidden_size)
        for norm in (self.norm_i, self.norm_f, self.norm_o, self.norm_g):
            # Gains as in Cooijmans et al. 2016. With 1 the network is chaotic: after 100 steps float32 and float64
            # share no digit, whatever computes them, and nothing could be compared.
            nn.init.constant_(norm.weight, 0.1)

    def forward(self, x: Tensor, state: State) -> State:
        h, c = state
        i = torch.sigmoid(self.norm_i(x @ self.W_xi + h @ self.W_hi) + self.b_i)
        f = torch.sigmoid(self.norm_f(x @ self.W_xf + h @ self.W_hf) + self.b_f)
        o = torch.sigmoid(self.norm_o(x @ self.W_xo + h @ self.W_ho) + self.b_o)
        g = torch.tanh(self.norm_g(x @ self.W_xg + h @ self.W_hg) + self.b_g)
        c = f * c + i * g
        return o * torch.tanh(self.norm_c(c)), c


class PeepholeLSTM(Written):
    """An LSTM whose gates see the cell state: Gers and Schmidhuber 2000."""

    gates = "ifog"
    states = 2

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        for gate in "ifo":
            self.draw(f"p_{gate}", hidden_size)

    def forward(self, x: Tensor, state: State) -> State:
        h, c = state
        i = torch.sigmoid(x @ self.W_xi + h @ self.W_hi + self.p_i * c + self.b_i)
        f = torch.sigmoid(x @ self.W_xf + h @ self.W_hf + self.p_f * c + self.b_f)
        g = torch.tanh(x @ self.W_xg + h @ self.W_hg + self.b_g)
        c = f * c + i * g
        o = torch.sigmoid(x @ self.W_xo + h @ self.W_ho + self.p_o * c + self.b_o)
        return o * torch.tanh(c), c


class UGRNN(Written):
    """The update gate network: Collins, Sohl-Dickstein and Sussillo 2016."""

    gates = "gc"

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        g = torch.sigmoid(x @ self.W_xg + h @ self.W_hg + self.b_g)
        c = torch.tanh(x @ self.W_xc + h @ self.W_hc + self.b_c)
        return g * h + (1 - g) * c


WRITTEN: dict[str, type[Written]] = {
    "lstm": LSTM,
    "gru-reset-before": GRUResetBefore,
    "layer-norm-lstm": LayerNormLSTM,
    "peephole-lstm": PeepholeLSTM,
    "ugrnn": UGRNN,
}


def zeros(module: Written, batch: int) -> Tensor | State:
    """The first state as the module takes it."""
    states = tuple(torch.zeros(batch, module.hidden_size) for _ in range(module.states))
    return states if module.states > 1 else states[0]


def loop(module: Written, x: Tensor, state: Tensor | State) -> Tensor:
    """y (T, B, H): the plain loop, with no more in it than has to be."""
    outputs = []
    for x_t in x.unbind(0):
        state = module(x_t, state)
        outputs.append(state if isinstance(state, Tensor) else state[0])
    return torch.stack(outputs)
