"""Cells from differential equations, with clocks, and with elapsed time in a column of x."""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tests.cpu.strangers.entry import Entry, two


class LEMCell(nn.Module):
    """Rusch et al. 2022. Idiom: fused Linear for three gates, slices with explicit bounds."""

    def __init__(self, ninp, nhid, dt=0.7):
        super().__init__()
        self.inp2hid = nn.Linear(ninp, 4 * nhid)
        self.hid2hid = nn.Linear(nhid, 3 * nhid)
        self.transform_z = nn.Linear(nhid, nhid)
        self.dt = dt

    def forward(self, x, state):
        y, z = state
        i_dt1, i_dt2, i_z, i_y = self.inp2hid(x).chunk(4, 1)
        h_dt1, h_dt2, h_y = self.hid2hid(y).chunk(3, 1)
        ms_dt_bar = self.dt * torch.sigmoid(i_dt1 + h_dt1)
        ms_dt = self.dt * torch.sigmoid(i_dt2 + h_dt2)
        z = (1.0 - ms_dt) * z + ms_dt * torch.tanh(i_y + h_y)
        y = (1.0 - ms_dt_bar) * y + ms_dt_bar * torch.tanh(self.transform_z(z) + i_z)
        return y, z


class LTC(nn.Module):
    """Hasani et al. 2021, fused solver. Idiom: a for over sub-steps, division, softplus of parameters."""

    def __init__(self, input_size, hidden_size, unfolds=3):
        super().__init__()
        self.unfolds = unfolds
        self.sense, self.rec = nn.Linear(input_size, hidden_size), nn.Linear(hidden_size, hidden_size, bias=False)
        self.A, self.log_tau = nn.Parameter(torch.randn(hidden_size)), nn.Parameter(torch.zeros(hidden_size))

    def forward(self, x, v):
        dt = 1.0 / self.unfolds
        sensed = self.sense(x)
        for _ in range(self.unfolds):
            f = torch.sigmoid(sensed + self.rec(v))
            v = (v + dt * f * self.A) / (1 + dt * (F.softplus(self.log_tau).reciprocal() + f))
        return v


class CfC(nn.Module):
    """Hasani et al. 2022, closed form. Idiom: an nn.Sequential backbone, elapsed time in the last column of x."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(input_size - 1 + hidden_size, 8), nn.SiLU(), nn.Linear(8, 8), nn.Tanh())
        self.ff1, self.ff2 = nn.Linear(8, hidden_size), nn.Linear(8, hidden_size)
        self.time_a, self.time_b = nn.Linear(8, hidden_size), nn.Linear(8, hidden_size)

    def forward(self, x, hx):
        ts = x[:, -1].unsqueeze(1)
        f = self.backbone(torch.cat([x[:, :-1], hx], 1))
        t_interp = torch.sigmoid(self.time_a(f) * ts + self.time_b(f))
        return torch.tanh(self.ff1(f)) * (1.0 - t_interp) + t_interp * torch.tanh(self.ff2(f))


class TimeAwareLSTM(nn.Module):
    """Baytas et al. 2017. Idiom: x[:, -1:], 1 / log(e + dt), narrow."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.W_d = nn.Linear(hidden_size, hidden_size)
        self.W_all, self.U_all = nn.Linear(hidden_size, 4 * hidden_size), nn.Linear(input_size - 1, 4 * hidden_size)

    def forward(self, x, state):
        h, c = state
        values, elapsed = x.narrow(1, 0, x.shape[1] - 1), x[:, -1:].abs()
        short = torch.tanh(self.W_d(c))
        c = c - short + short / torch.log(math.e + elapsed)
        f, i, o, tmp = torch.chunk(self.W_all(h) + self.U_all(values), 4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(tmp)
        return torch.sigmoid(o) * torch.tanh(c), c


class DecayGRU(nn.Module):
    """GRU-D's hidden decay, Che et al. 2018 (T-GRU). Idiom: exp(-relu(...)), nn.GRUCell inside."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.gru = nn.GRUCell(input_size, hidden_size)
        self.gamma_h = nn.Linear(1, hidden_size)

    def forward(self, x, h):
        delta = x[..., :1]
        return self.gru(x, torch.exp(-F.relu(self.gamma_h(delta))) * h)


class DecayByMax(nn.Module):
    """The same decay by torch.max with a tensor of zeros. Idiom: new_zeros, torch.min / max of tensors."""

    def __init__(self, d_in, d):
        super().__init__()
        self.w = nn.Linear(d_in, 2 * d)
        self.r = nn.Linear(d, d, bias=False)

    def forward(self, x, h):
        rate, drive = self.w(x).tensor_split(2, dim=1)
        gamma = torch.exp(-torch.max(rate, h.new_zeros(h.shape)))
        return gamma * h + (1 - gamma) * torch.min(self.r(h) + drive, torch.full_like(h, 2.0))


class PhasedLSTM(nn.Module):
    """Neil et al. 2016. Idiom: a clock of width 1 in the state, torch.remainder, nested torch.where, alpha leak."""

    def __init__(self, input_size, hidden_size, leak=0.01):
        super().__init__()
        self.cell = nn.LSTMCell(input_size, hidden_size)
        self.log_tau = nn.Parameter(torch.rand(hidden_size))
        self.shift = nn.Parameter(torch.rand(hidden_size))
        self.r_on, self.leak = 0.3, leak

    def forward(self, x, state):
        h, c, t = state
        tau = torch.exp(self.log_tau)
        phi = torch.remainder(t - self.shift, tau) / tau
        half = self.r_on / 2
        k = torch.where(phi < half, phi / half, torch.where(phi < self.r_on, 2 - phi / half, self.leak * phi))
        h_new, c_new = self.cell(x, (h, c))
        return k * h_new + (1 - k) * h, k * c_new + (1 - k) * c, t + 1


class OscillationGate(nn.Module):
    """A clock of sines, after Neil et al. 2016. Idiom: sin and cos of time and of a learned frequency."""

    def __init__(self, I, H):
        super().__init__()
        self.cand = nn.Linear(I + H, H)
        self.omega, self.phase = nn.Parameter(torch.rand(H) * math.pi), nn.Parameter(torch.zeros(H))

    def forward(self, x, state):
        h, clock = state
        angle = self.omega * clock + self.phase
        gate = 0.5 * (1 + torch.sin(angle)) * torch.cos(0.5 * angle).pow(2)
        h = (1 - gate) * h + gate * torch.tanh(self.cand(torch.cat([x, h], 1)))
        return h, clock + 0.1


class ClockworkRNN(nn.Module):
    """Koutnik et al. 2014, without the skipping. Idiom: a block-triangular mask as a buffer on the weight."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.W_I, self.W_H = nn.Linear(input_size, hidden_size), nn.Linear(hidden_size, hidden_size)
        block = torch.arange(hidden_size) // 2
        self.register_buffer("mask", (block[:, None] <= block[None, :]).float())
        self.register_buffer("rate", 0.5 ** block.float(), persistent=False)

    def forward(self, x, h):
        new = F.linear(h, self.W_H.weight * self.mask, self.W_H.bias) + self.W_I(x)
        return torch.where(self.rate > 0.3, torch.tanh(new), (1 - self.rate) * h + self.rate * torch.tanh(new))


class SlowUnits(nn.Module):
    """Leaky units some of which are slow (Jaeger et al. 2007). Idiom: buffers of bool and of whole numbers."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.new = nn.Linear(input_size + hidden_size, hidden_size)
        self.register_buffer("slow", torch.arange(hidden_size) % 3 == 0)
        self.register_buffer("steps", 1 + torch.arange(hidden_size))

    def forward(self, x, h):
        new = torch.tanh(self.new(torch.cat([x, h], 1)))
        return torch.where(self.slow, h + (new - h) / self.steps, new)


class BRC(nn.Module):
    """Vecoven et al. 2021, bistable; the neuromodulated one takes matrices. Idiom: 1 + tanh as a gate."""

    def __init__(self, input_size, hidden_size, neuromodulated=False):
        super().__init__()
        self.nbrc = neuromodulated
        self.U = nn.ModuleList(nn.Linear(input_size, hidden_size) for _ in range(3))
        shape = (hidden_size, hidden_size) if neuromodulated else (hidden_size,)
        self.wa, self.wc = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(shape))

    def modulate(self, h, w):
        return h @ w if self.nbrc else h * w

    def forward(self, x, h):
        Ua, Uc, Uo = self.U
        a = 1 + torch.tanh(Ua(x) + self.modulate(h, self.wa))
        c = torch.sigmoid(Uc(x) + self.modulate(h, self.wc))
        return c * h + (1 - c) * torch.tanh(Uo(x) + a * h)


class SkipRNN(nn.Module):
    """Campos et al. 2018. Idiom: a state of width 1, a binary gate whose gradient goes straight through by detach."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.cell = nn.GRUCell(input_size, hidden_size)
        self.delta = nn.Linear(hidden_size, 1)

    def forward(self, x, state):
        h, u_tilde = state
        soft = u_tilde.clamp(0.0, 1.0)
        u = soft + ((soft > 0.5).to(soft.dtype) - soft).detach()
        h = u * self.cell(x, h) + (1 - u) * h
        delta = torch.sigmoid(self.delta(h))
        return h, u * delta + (1 - u) * (u_tilde + torch.minimum(delta, 1 - u_tilde))


CELLS = {
    "lem": Entry(LEMCell, two),
    "liquid-time-constant": Entry(LTC),
    "closed-form-continuous": Entry(CfC),
    "t-lstm": Entry(TimeAwareLSTM, two),
    "gru-d": Entry(DecayGRU),
    "decay-by-max": Entry(DecayByMax),
    "phased-lstm": Entry(PhasedLSTM, lambda h: (h, h, 1)),
    "oscillation-gate": Entry(OscillationGate, lambda h: (h, 1)),
    "clockwork": Entry(ClockworkRNN),  # H even
    "slow-units": Entry(SlowUnits),
    "brc": Entry(BRC),
    "nbrc": Entry(lambda i, h: BRC(i, h, neuromodulated=True)),
    "skip-rnn": Entry(SkipRNN, lambda h: (h, 1)),
}
