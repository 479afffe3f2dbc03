"""Cells whose recurrence is elementwise or linear, in parallelisable fashion: SRU, minGRU, LRU, Mamba and kin."""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tests.cpu.strangers.entry import Entry, three, two


class SRUStep(nn.Module):
    """Lei et al. 2018. Idiom: one product for all, view(-1, 4, H) and unbind, output beside the state."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(in_features, 4 * out_features))
        self.v = nn.Parameter(torch.randn(2, out_features))
        self.b = nn.Parameter(torch.zeros(2, out_features))
        self.d = out_features

    def forward(self, x, c):
        tilde, f, r, skip = (x @ self.weight).view(-1, 4, self.d).unbind(dim=1)
        f = torch.sigmoid(f + self.v[0] * c + self.b[0])
        r = torch.sigmoid(r + self.v[1] * c + self.b[1])
        c = f * c + (1 - f) * tilde
        return r * c + (1 - r) * skip * math.sqrt(1 + 2 * math.exp(0)), c


class MinGRU(nn.Module):
    """Feng et al. 2024. Idiom: torch.where for g, one Linear without h."""

    def __init__(self, dim_in, dim):
        super().__init__()
        self.to_hidden_and_gate = nn.Linear(dim_in, dim * 2, bias=False)

    def g(self, x):
        return torch.where(x >= 0, x + 0.5, x.sigmoid())

    def forward(self, x, prev_hidden):
        hidden, gate = self.to_hidden_and_gate(x).chunk(2, dim=-1)
        return torch.lerp(prev_hidden, self.g(hidden), gate.sigmoid())


class MinLSTM(nn.Module):
    """Feng et al. 2024. Idiom: torch.stack of weights, gates divided by their sum."""

    def __init__(self, I, H):
        super().__init__()
        self.W_f, self.W_i, self.W_h = (nn.Parameter(torch.randn(I, H)) for _ in range(3))

    def forward(self, x, h):
        f, i, new = torch.matmul(x, torch.stack([self.W_f, self.W_i, self.W_h])).unbind(0)
        f, i = torch.sigmoid(f), torch.sigmoid(i)
        return f / (f + i) * h + i / (f + i) * new


class LRU(nn.Module):
    """Orvieto et al. 2023, by real and imaginary part. Idiom: exp(-exp(nu)), cos and sin of parameters."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.nu_log, self.theta_log = nn.Parameter(torch.zeros(hidden_size)), nn.Parameter(torch.zeros(hidden_size))
        self.B_re, self.B_im = (nn.Linear(input_size, hidden_size, bias=False) for _ in range(2))
        self.C_re, self.C_im = (nn.Linear(hidden_size, input_size, bias=False) for _ in range(2))
        self.D = nn.Parameter(torch.randn(input_size))

    def forward(self, u, state):
        re, im = state
        modulus, phase = torch.exp(-torch.exp(self.nu_log)), torch.exp(self.theta_log)
        gamma = torch.sqrt(1 - modulus.square())
        a, b = modulus * torch.cos(phase), modulus * torch.sin(phase)
        re, im = a * re - b * im + gamma * self.B_re(u), a * im + b * re + gamma * self.B_im(u)
        y = self.C_re(re) - self.C_im(im) + self.D * u
        return y[:, :1], (re, im)  # one column, as wide for every input


class RGLRU(nn.Module):
    """De et al. 2024 (Griffin). Idiom: log space, expm1, softplus of a parameter."""

    def __init__(self, width_in, width):
        super().__init__()
        self.a_param = nn.Parameter(torch.randn(width))
        self.input_gate, self.a_gate = nn.Linear(width_in, width), nn.Linear(width_in, width)
        self.x_proj = nn.Linear(width_in, width)

    def forward(self, x, h):
        log_a = -8.0 * torch.sigmoid(self.a_gate(x)) * F.softplus(self.a_param)
        multiplier = torch.sqrt(-torch.expm1(2 * log_a))
        return torch.exp(log_a) * h + multiplier * (torch.sigmoid(self.input_gate(x)) * self.x_proj(x))


class SelectiveStep(nn.Module):
    """Gu & Dao 2023 (Mamba, one step). Idiom: state (B, H*N) viewed (B, H, N), einsum, unsqueeze, flatten."""

    def __init__(self, input_size, hidden_size, n_state=2):
        super().__init__()
        self.in_proj = nn.Linear(input_size, hidden_size)
        self.x_proj = nn.Linear(hidden_size, 1 + 2 * n_state, bias=False)
        self.dt_proj = nn.Linear(1, hidden_size)
        self.A_log = nn.Parameter(torch.log(torch.arange(1, n_state + 1).repeat(hidden_size, 1) + 0.1))
        self.D = nn.Parameter(torch.ones(hidden_size))
        self.n = n_state

    def forward(self, x, state):
        u = F.silu(self.in_proj(x))
        dt, B, C = torch.split(self.x_proj(u), [1, self.n, self.n], dim=-1)
        dt = F.softplus(self.dt_proj(dt))
        dA = torch.exp(torch.einsum("bd,dn->bdn", dt, -torch.exp(self.A_log)))
        s = state.view(-1, u.shape[1], self.n) * dA + (dt * u).unsqueeze(-1) * B.unsqueeze(1)
        y = torch.einsum("bdn,bn->bd", s, C) + self.D * u
        return y, s.flatten(1)


class WKV(nn.Module):
    """Peng et al. 2023 (RWKV time mixing). Idiom: a running maximum, torch.maximum, num / den."""

    def __init__(self, n_in, n_embd):
        super().__init__()
        self.time_decay, self.time_first = nn.Parameter(torch.randn(n_embd)), nn.Parameter(torch.randn(n_embd))
        self.key, self.value, self.receptance = (nn.Linear(n_in, n_embd, bias=False) for _ in range(3))

    def forward(self, x, state):
        aa, bb, pp = state
        k, v, r = self.key(x), self.value(x), torch.sigmoid(self.receptance(x))
        ww = self.time_first + k
        qq = torch.maximum(pp, ww)
        e1, e2 = torch.exp(pp - qq), torch.exp(ww - qq)
        y = r * (e1 * aa + e2 * v) / (e1 * bb + e2)
        ww = pp - torch.exp(self.time_decay)
        qq = torch.maximum(ww, k)
        e1, e2 = torch.exp(ww - qq), torch.exp(k - qq)
        return y, (e1 * aa + e2 * v, e1 * bb + e2, qq)


class sLSTM(nn.Module):
    """Beck et al. 2024, with the stabiliser. Idiom: four states, torch.max of two, F.logsigmoid."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.W = nn.Linear(input_size, 4 * hidden_size)
        self.R = nn.Linear(hidden_size, 4 * hidden_size, bias=False)

    def forward(self, x, state):
        h, c, n, m = state
        z, i, f, o = torch.chunk(self.W(x) + self.R(h), 4, dim=-1)
        log_f = F.logsigmoid(f)
        m_new = torch.max(log_f + m, i)
        i, f = torch.exp(i - m_new), torch.exp(log_f + m - m_new)
        c, n = f * c + i * torch.tanh(z), f * n + i
        return torch.sigmoid(o) * c / n, c, n, m_new


class DeltaRule(nn.Module):
    """Schlag et al. 2021: fast weights. Idiom: state (B, H*H) as matrices, torch.bmm, baddbmm."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.kvq = nn.Linear(input_size, 3 * hidden_size, bias=False)
        self.beta = nn.Linear(input_size, 1)

    def forward(self, x, W):
        k, v, q = self.kvq(x).chunk(3, dim=-1)
        k, q = F.softmax(k, dim=-1), F.softmax(q, dim=-1)
        M = W.view(x.size(0), k.size(1), k.size(1))
        old = torch.bmm(M, k.unsqueeze(2)).squeeze(2)
        M = torch.baddbmm(M, (torch.sigmoid(self.beta(x)) * (v - old)).unsqueeze(2), k.unsqueeze(1))
        return torch.bmm(M, q.unsqueeze(2)).squeeze(2), M.reshape(x.size(0), -1)


class LegendreMemoryUnit(nn.Module):
    """Voelker et al. 2019. Idiom: buffers A and B, a memory of fixed width 4 beside h."""

    def __init__(self, input_size, hidden_size, order=4, theta=8.0):
        super().__init__()
        q = torch.arange(order)
        rows, cols = q[:, None], q[None, :]
        A = torch.where(rows < cols, -1.0, (-1.0) ** (rows - cols + 1)) * (2 * rows + 1) / theta
        self.register_buffer("A", torch.eye(order) + A / 2)
        self.register_buffer("B", (((-1.0) ** q) * (2 * q + 1) / theta / 2)[:, None])
        self.e_x, self.e_h, self.e_m = (nn.Linear(n, 1, bias=False) for n in (input_size, hidden_size, order))
        self.W_x, self.W_h = nn.Linear(input_size, hidden_size), nn.Linear(hidden_size, hidden_size, bias=False)
        self.W_m = nn.Linear(order, hidden_size, bias=False)

    def forward(self, x, state):
        h, m = state
        u = self.e_x(x) + self.e_h(h) + self.e_m(m)
        m = F.linear(m, self.A) + F.linear(u, self.B)
        return torch.tanh(self.W_x(x) + self.W_h(h) + self.W_m(m)), m


CELLS = {
    "sru": Entry(SRUStep),
    "mingru": Entry(MinGRU),
    "minlstm": Entry(MinLSTM),
    "lru": Entry(LRU, two, lambda h: 1),
    "rg-lru": Entry(RGLRU),
    "mamba-step": Entry(SelectiveStep, lambda h: (2 * h,), lambda h: h),
    "rwkv": Entry(WKV, three),
    "slstm": Entry(sLSTM, lambda h: (h,) * 4),
    "delta-rule": Entry(DeltaRule, lambda h: (h * h,), lambda h: h),
    "legendre-memory": Entry(LegendreMemoryUnit, lambda h: (h, 4)),
}
