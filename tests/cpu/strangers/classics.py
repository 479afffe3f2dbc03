"""Cells without gates, or nearly: Elman's and what became of it."""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn import Parameter

from tests.cpu.strangers.entry import Entry, two


class ElmanRNN(nn.Module):
    """Elman 1990. Idiom: two nn.Linear."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.i2h = nn.Linear(input_size, hidden_size)
        self.h2h = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, x, h):
        return torch.tanh(self.i2h(x) + self.h2h(h))


class IRNNCell(nn.Module):
    """Le et al. 2015. Idiom: F.linear, reset_parameters, torch.relu_ on a fresh tensor."""

    def __init__(self, n_in: int, n_hid: int) -> None:
        super().__init__()
        self.weight_ih = Parameter(torch.empty(n_hid, n_in))
        self.weight_hh = Parameter(torch.empty(n_hid, n_hid))
        self.bias = Parameter(torch.empty(n_hid))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.weight_ih, a=math.sqrt(5))
        nn.init.eye_(self.weight_hh)
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor, hx: Tensor) -> Tensor:
        return torch.relu_(F.linear(input, self.weight_ih, self.bias) + F.linear(hx, self.weight_hh))


class WithReadout(nn.Module):
    """Elman with an output layer. Idiom: nn.RNNCell inside, output and state are two things of two widths."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.core = nn.RNNCell(input_size, hidden_size, nonlinearity="relu")
        self.readout = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.Tanh(), nn.Linear(hidden_size, 2))

    def forward(self, x, state):
        state = self.core(x, state)
        return self.readout(state), state


class JordanRNN(nn.Module):
    """Jordan 1986: the state is the output, narrower than the hidden layer. Idiom: x @ self.W."""

    def __init__(self, I, H):
        super().__init__()
        self.W = nn.Parameter(torch.randn(I, H) / I**0.5)
        self.U = nn.Parameter(torch.randn(H // 2, H) / H**0.5)
        self.b = nn.Parameter(torch.zeros(H))
        self.V = nn.Parameter(torch.randn(H, H // 2) / H**0.5)

    def forward(self, x, y):
        hidden = (x @ self.W + y @ self.U + self.b).sigmoid()
        return (hidden @ self.V).tanh()


class IndRNN(nn.Module):
    """Li et al. 2018. Idiom: torch.addcmul, a vector as the recurrent weight."""

    def __init__(self, in_dim, dim):
        super().__init__()
        self.proj = nn.Linear(in_dim, dim)
        self.u = nn.Parameter(torch.rand(dim))

    def forward(self, x, h_prev):
        return F.relu(torch.addcmul(self.proj(x), self.u, h_prev))


class SecondOrderRNN(nn.Module):
    """Giles et al. 1990. Idiom: torch.einsum with three operands."""

    def __init__(self, n_inputs, n_units):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_units, n_units, n_inputs) * 0.2)
        self.bias = nn.Parameter(torch.randn(n_units) * 0.1)

    def forward(self, x, h):
        return torch.sigmoid(torch.einsum("bi,jki,bk->bj", x, self.weight, h) + self.bias)


class SCRN(nn.Module):
    """Mikolov et al. 2014: a slow context of another width. Idiom: torch.mm, alpha= of torch.add."""

    def __init__(self, input_size: int, hidden_size: int, alpha: float = 0.95) -> None:
        super().__init__()
        context = hidden_size // 2
        self.A = Parameter(torch.randn(input_size, hidden_size) * 0.1)
        self.B = Parameter(torch.randn(input_size, context) * 0.1)
        self.P = Parameter(torch.randn(context, hidden_size) * 0.1)
        self.R = Parameter(torch.randn(hidden_size, hidden_size) * 0.1)
        self.U = Parameter(torch.randn(hidden_size, hidden_size) * 0.1)
        self.V = Parameter(torch.randn(context, hidden_size) * 0.1)
        self.alpha = alpha

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h, s = state
        s = torch.add(self.alpha * s, torch.mm(x, self.B), alpha=1 - self.alpha)
        h = torch.sigmoid(torch.mm(s, self.P) + torch.mm(x, self.A) + torch.mm(h, self.R))
        return torch.mm(h, self.U) + torch.mm(s, self.V), (h, s)


class LeakyRNN(nn.Module):
    """Leaky integrator. Idiom: a leak of shape (), torch.lerp."""

    def __init__(self, nin, nh):
        super().__init__()
        self.lin = nn.Linear(nin + nh, nh)
        self.leak = nn.Parameter(torch.tensor(0.3))

    def forward(self, x, h):
        new = torch.tanh(self.lin(torch.cat((x, h), -1)))
        return torch.lerp(h, new, torch.sigmoid(self.leak))


class LowRankRNN(nn.Module):
    """Mastrogiuseppe & Ostojic 2018. Idiom: W @ h.t() and back, a low-rank product bracketed as it is cheap."""

    def __init__(self, input_size, hidden_size, rank=2):
        super().__init__()
        self.W_in = nn.Parameter(torch.randn(hidden_size, input_size))
        self.m = nn.Parameter(torch.randn(hidden_size, rank))
        self.n = nn.Parameter(torch.randn(rank, hidden_size))
        self.dt_over_tau = 0.2

    def forward(self, x, h):
        drive = self.W_in @ x.t() + self.m @ (self.n @ torch.tanh(h).t())
        return h + self.dt_over_tau * (drive.t() - h)


class AntisymmetricRNN(nn.Module):
    """Chang et al. 2019. Idiom: a matrix made of a parameter in every step, a buffer with the identity."""

    def __init__(self, input_size, hidden_size, eps=0.1, gamma=0.01, gated=False):
        super().__init__()
        self.W = nn.Parameter(torch.randn(hidden_size, hidden_size))
        self.Vh = nn.Linear(input_size, hidden_size)
        self.Vz = nn.Linear(input_size, hidden_size) if gated else None
        self.register_buffer("eye", torch.eye(hidden_size))
        self.eps, self.gamma = eps, gamma

    def forward(self, x, h):
        A = self.W - self.W.T - self.gamma * self.eye
        Ah = h @ A.T
        step = torch.tanh(Ah + self.Vh(x))
        if self.Vz is not None:
            step = torch.sigmoid(Ah + self.Vz(x)) * step
        return h + self.eps * step


class LipschitzRNN(nn.Module):
    """Erichson et al. 2021. Idiom: torch.eye in the step, transpose(0, 1), torch.matmul."""

    def __init__(self, I, H, beta=0.65, gamma=0.01, eps=0.03):
        super().__init__()
        self.MA, self.MW = nn.Parameter(torch.randn(H, H)), nn.Parameter(torch.randn(H, H))
        self.U = nn.Linear(I, H)
        self.beta, self.gamma, self.eps = beta, gamma, eps

    def skewed(self, M):
        identity = torch.eye(M.shape[0], dtype=M.dtype, device=M.device)
        Mt = M.transpose(0, 1)
        return (1 - self.beta) * (M + Mt) + self.beta * (M - Mt) - self.gamma * identity

    def forward(self, x, h):
        A, W = self.skewed(self.MA), self.skewed(self.MW)
        return h + self.eps * (torch.matmul(h, A) + torch.tanh(torch.matmul(h, W) + self.U(x)))


class coRNNCell(nn.Module):
    """Rusch & Mishra 2021. Idiom: one Linear on cat of three, chained updates."""

    def __init__(self, n_inp, n_hid, dt=0.1, gamma=2.7, epsilon=4.7):
        super().__init__()
        self.dt, self.gamma, self.epsilon = dt, gamma, epsilon
        self.i2h = nn.Linear(n_inp + 2 * n_hid, n_hid)

    def forward(self, x, state):
        hy, hz = state
        hz = hz + self.dt * (torch.tanh(self.i2h(torch.cat([x, hz, hy], 1))) - self.gamma * hy - self.epsilon * hz)
        hy = hy + self.dt * hz
        return hy, hz


class FastRNN(nn.Module):
    """Kusupati et al. 2018. Idiom: scalars of shape (1, 1), torch.addmm with the bias."""

    def __init__(self, input_dim, hidden_dim):
        super().__init__()
        self.W = nn.Parameter(0.1 * torch.randn(input_dim, hidden_dim))
        self.U = nn.Parameter(0.1 * torch.randn(hidden_dim, hidden_dim))
        self.bias = nn.Parameter(torch.ones(1, hidden_dim))
        self.alpha = nn.Parameter(-3.0 * torch.ones(1, 1))
        self.beta = nn.Parameter(3.0 * torch.ones(1, 1))

    def forward(self, x, state):
        pre = torch.addmm(self.bias, x, self.W) + torch.matmul(state, self.U)
        return torch.sigmoid(self.beta) * state + torch.sigmoid(self.alpha) * torch.tanh(pre)


class HouseholderRNN(nn.Module):
    """Mhammedi et al. 2017. Idiom: a for over reflections, a reduction in each, unbind of one parameter."""

    def __init__(self, input_size, hidden_size, reflections=3):
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(reflections, hidden_size))
        self.inp = nn.Linear(input_size, hidden_size)

    def forward(self, x, h):
        for v in self.vectors.unbind(0):
            h = h - 2 * (h * v).sum(-1, keepdim=True) * v / v.dot(v)
        return F.leaky_relu(h + self.inp(x), 0.1)


CELLS = {
    "elman": Entry(ElmanRNN),
    "irnn": Entry(IRNNCell),
    "rnncell-with-readout": Entry(WithReadout, output=lambda h: 2),
    "jordan": Entry(JordanRNN, lambda h: (h // 2,)),  # H even
    "indrnn": Entry(IndRNN),
    "second-order": Entry(SecondOrderRNN),
    "scrn": Entry(SCRN, lambda h: (h, h // 2)),  # H even
    "leaky-scalar": Entry(LeakyRNN),
    "low-rank": Entry(LowRankRNN),
    "antisymmetric": Entry(AntisymmetricRNN),
    "antisymmetric-gated": Entry(lambda i, h: AntisymmetricRNN(i, h, gated=True)),
    "lipschitz": Entry(LipschitzRNN),
    "cornn": Entry(coRNNCell, two),
    "fastrnn": Entry(FastRNN),
    "householder": Entry(HouseholderRNN),
}
