"""The LSTM and its variants, each author in a style of his own."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tests.cpu.strangers.entry import Entry, two


class LSTMFromScratch(nn.Module):
    """Gers et al. 2000. Idiom: one nn.Linear on torch.cat, chunk; returns (h, (h, c))."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.linear = nn.Linear(input_size + hidden_size, 4 * hidden_size)

    def forward(self, x, state):
        h, c = state
        i, f, g, o = self.linear(torch.cat([x, h], dim=1)).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)


class SlicedLSTM(nn.Module):
    """LSTM. Idiom: F.linear with (4H, I), += on the fresh product, slices gates[:, :H], sigmoid_ in place."""

    def __init__(self, n_in, n):
        super().__init__()
        self.n = n
        self.w_ih = nn.Parameter(torch.randn(4 * n, n_in) * 0.1)
        self.w_hh = nn.Parameter(torch.randn(4 * n, n) * 0.1)
        self.b = nn.Parameter(torch.zeros(4 * n))

    def forward(self, x, hc):
        n = self.n
        gates = F.linear(x, self.w_ih)
        gates += F.linear(hc[0], self.w_hh)
        gates += self.b
        ifo = gates[:, : 3 * n].sigmoid_()
        g = gates[:, 3 * n :].tanh()
        c = ifo[:, n : 2 * n] * hc[1] + ifo[:, :n] * g
        return ifo[:, 2 * n :] * c.tanh(), c


class PeepholeLSTM(nn.Module):
    """Gers & Schmidhuber 2000. Idiom: one Linear for every product, peepholes as vectors."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        for gate in "ifgo":
            setattr(self, f"x{gate}", nn.Linear(input_size, hidden_size))
            setattr(self, f"h{gate}", nn.Linear(hidden_size, hidden_size, bias=False))
        self.p_i, self.p_f, self.p_o = (nn.Parameter(torch.randn(hidden_size) * 0.1) for _ in range(3))

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, c = state
        i = torch.sigmoid(self.xi(x) + self.hi(h) + self.p_i * c)
        f = torch.sigmoid(self.xf(x) + self.hf(h) + self.p_f * c)
        c = f * c + i * torch.tanh(self.xg(x) + self.hg(h))
        o = torch.sigmoid(self.xo(x) + self.ho(h) + self.p_o * c)
        return o * torch.tanh(c), c


class CIFG(nn.Module):
    """Coupled gates, Greff et al. 2017. Idiom: nn.ParameterDict, a helper method."""

    def __init__(self, I, H):
        super().__init__()
        self.W = nn.ParameterDict({k: nn.Parameter(torch.randn(I, H)) for k in ("i", "z", "o")})
        self.R = nn.ParameterDict({k: nn.Parameter(torch.randn(H, H)) for k in ("i", "z", "o")})
        self.b = nn.ParameterDict({k: nn.Parameter(torch.zeros(H)) for k in ("i", "z", "o")})

    def pre(self, k, x, y):
        return x @ self.W[k] + y @ self.R[k] + self.b[k]

    def forward(self, x, state):
        y, c = state
        i = torch.sigmoid(self.pre("i", x, y))
        c = i * torch.tanh(self.pre("z", x, y)) + (1 - i) * c
        return torch.sigmoid(self.pre("o", x, y)) * torch.tanh(c), c


class AblatedLSTM(nn.Module):
    """Greff et al. 2017: without one gate or activation. Idiom: dict bookkeeping, torch.ones_like for the absent."""

    def __init__(self, input_size, hidden_size, without):
        super().__init__()
        self.without = without
        self.names = [name for name in ("input", "forget", "output") if name != without] + ["block"]
        self.layers = nn.ModuleDict({n: nn.Linear(input_size + hidden_size, hidden_size) for n in self.names})

    def forward(self, x, state):
        y, c = state
        xy = torch.cat([x, y], dim=-1)
        gates = {}
        for name in ("input", "forget", "output"):
            gates[name] = self.layers[name](xy).sigmoid() if name in self.names else torch.ones_like(c)
        z = self.layers["block"](xy)
        z = z if self.without == "input activation" else z.tanh()
        c = gates["input"] * z + gates["forget"] * c
        return gates["output"] * (c if self.without == "output activation" else c.tanh()), c


class FullGateRecurrence(nn.Module):
    """Greff et al. 2017: gates see last step's gates. Idiom: five states, *state, torch.split."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.hidden_size = hidden_size
        self.block = nn.Linear(input_size + hidden_size, hidden_size)
        self.gates = nn.Linear(input_size + 4 * hidden_size, 3 * hidden_size)

    def forward(self, x, state):
        y, c, *before = state
        both = torch.cat([x, y], 1)
        i, f, o = torch.split(torch.sigmoid(self.gates(torch.cat([both, *before], 1))), self.hidden_size, dim=1)
        c = f * c + i * torch.tanh(self.block(both))
        return o * torch.tanh(c), c, i, f, o


class JANET(nn.Module):
    """van der Westhuizen & Lasenby 2018. Idiom: chained methods, a one-sided shift of the gate."""

    def __init__(self, x_size, h_size, beta=1.0):
        super().__init__()
        self.x2s, self.h2s = nn.Linear(x_size, 2 * h_size), nn.Linear(h_size, 2 * h_size, bias=False)
        self.beta = beta

    def forward(self, x, h):
        s, g = self.x2s(x).add(self.h2s(h)).chunk(2, 1)
        return s.sigmoid().mul(h).add((s - self.beta).sigmoid().neg().add(1).mul(g.tanh()))


class MultiplicativeLSTM(nn.Module):
    """Krause et al. 2016. Idiom: bias-free Linear layers multiplied, tuple in, tuple out."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.mx = nn.Linear(input_size, hidden_size, bias=False)
        self.mh = nn.Linear(hidden_size, hidden_size, bias=False)
        self.x2g = nn.Linear(input_size, 4 * hidden_size)
        self.m2g = nn.Linear(hidden_size, 4 * hidden_size, bias=False)

    def forward(self, x, state):
        (h, c) = state
        m = self.mx(x) * self.mh(h)
        g = self.x2g(x) + self.m2g(m)
        hhat, i, f, o = torch.tensor_split(g, 4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * hhat
        return torch.tanh(c * torch.sigmoid(o)), c


class MILSTM(nn.Module):
    """Multiplicative integration, Wu et al. 2016. Idiom: alpha * Wx * Uh + beta1 * Uh + beta2 * Wx + b."""

    def __init__(self, I, H):
        super().__init__()
        self.Wx, self.Uh = nn.Linear(I, 4 * H, bias=False), nn.Linear(H, 4 * H, bias=False)
        self.alpha, self.beta1, self.beta2 = (nn.Parameter(torch.ones(4 * H)) for _ in range(3))
        self.bias = nn.Parameter(torch.zeros(4 * H))

    def forward(self, x, state):
        h, c = state
        Wx, Uh = self.Wx(x), self.Uh(h)
        z = self.alpha * Wx * Uh + self.beta1 * Uh + self.beta2 * Wx + self.bias
        z = z.reshape(x.size(0), 4, -1)
        i, f, o = torch.sigmoid(z[:, :3]).unbind(1)
        c = f * c + i * torch.tanh(z[:, 3])
        return o * torch.tanh(c), c


class ProjectedLSTM(nn.Module):
    """Sak et al. 2014: h narrower than c. Idiom: nn.Linear over stacked outputs, states of two widths."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.gates = nn.Linear(input_size + hidden_size // 2, 4 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size // 2, bias=False)

    def forward(self, x, state):
        r, c = state
        g = self.gates(torch.hstack([x, r]))
        i, f, o, z = torch.split(g, g.shape[1] // 4, dim=1)
        c = torch.sigmoid(f + 1.0) * c + torch.sigmoid(i) * torch.tanh(z)
        return self.proj(torch.sigmoid(o) * torch.tanh(c)), c


class ActivatedLSTM(nn.Module):
    """LSTM with another squashing. Idiom: the activation handed in as a function or a module."""

    def __init__(self, input_size, hidden_size, act):
        super().__init__()
        self.lin = nn.Linear(input_size + hidden_size, 4 * hidden_size)
        self.act = act

    def forward(self, x, state):
        h, c = state
        pre = self.lin(torch.cat([x, h], dim=-1))
        H = h.size(-1)
        gates, cand = pre.split([3 * H, H], dim=-1)
        i, f, o = gates.sigmoid().chunk(3, dim=-1)
        c = f * c + i * self.act(cand)
        return o * torch.tanh(self.act(c)), c


WITHOUT = ("input", "forget", "output", "input activation", "output activation")
ACTS = {"softplus": F.softplus, "gelu": nn.GELU(), "gelu-tanh": nn.GELU(approximate="tanh"), "silu": F.silu}
ACTS |= {
    "relu": nn.ReLU(),
    "elu": F.elu,
    "mish": F.mish,
    "softsign": F.softsign,
    "relu6": nn.ReLU6(),
    "celu": nn.CELU(),
}

CELLS = {
    "lstm-cat": Entry(LSTMFromScratch, two),
    "lstm-sliced": Entry(SlicedLSTM, two),
    "lstm-peephole": Entry(PeepholeLSTM, two),
    "lstm-coupled": Entry(CIFG, two),
    **{f"lstm-without-{w.replace(' ', '-')}": Entry(lambda i, h, w=w: AblatedLSTM(i, h, w), two) for w in WITHOUT},
    "lstm-full-gate-recurrence": Entry(FullGateRecurrence, lambda h: (h,) * 5),
    "janet": Entry(JANET),
    "lstm-multiplicative": Entry(MultiplicativeLSTM, two),
    "lstm-multiplicative-integration": Entry(MILSTM, two),
    "lstm-projected": Entry(ProjectedLSTM, lambda h: (h // 2, h)),  # H even
    **{f"lstm-{name}": Entry(lambda i, h, a=act: ActivatedLSTM(i, h, a), two) for name, act in ACTS.items()},
}
