"""The GRU and its smaller relatives."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tests.cpu.strangers.entry import Entry, two


class GRUv1(nn.Module):
    """Cho et al. 2014, reset before the product. Idiom: nn.ModuleDict of gates."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.gate = nn.ModuleDict({g: nn.Linear(input_size + hidden_size, hidden_size) for g in "rzn"})

    def forward(self, x, h):
        xh = torch.cat([x, h], dim=1)
        r, z = (torch.sigmoid(self.gate[g](xh)) for g in "rz")
        n = torch.tanh(self.gate["n"](torch.cat([x, r * h], dim=1)))
        return z * h + (1 - z) * n


class GRUv3(nn.Module):
    """cuDNN's form, reset after the product. Idiom: F.linear with (3H, I) and (3H, H), chunk, n + z * (h - n)."""

    def __init__(self, idim: int, hdim: int) -> None:
        super().__init__()
        self.w_ih, self.w_hh = nn.Parameter(torch.randn(3 * hdim, idim)), nn.Parameter(torch.randn(3 * hdim, hdim))
        self.b_ih, self.b_hh = nn.Parameter(torch.zeros(3 * hdim)), nn.Parameter(torch.zeros(3 * hdim))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        xr, xz, xn = F.linear(x, self.w_ih, self.b_ih).chunk(3, 1)
        hr, hz, hn = F.linear(h, self.w_hh, self.b_hh).chunk(3, 1)
        reset, update = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
        new = torch.tanh(xn + reset * hn)
        return new + update * (h - new)


class MGU(nn.Module):
    """Zhou et al. 2016. Idiom: torch.addmm twice, functional style."""

    def __init__(self, I, H):
        super().__init__()
        self.Wf, self.Wh = nn.Parameter(torch.randn(H + I, H)), nn.Parameter(torch.randn(H + I, H))
        self.bf, self.bh = nn.Parameter(torch.zeros(H)), nn.Parameter(torch.zeros(H))

    def forward(self, x, h):
        f = torch.sigmoid(torch.addmm(self.bf, torch.cat((h, x), 1), self.Wf))
        candidate = torch.tanh(torch.addmm(self.bh, torch.cat((torch.mul(f, h), x), 1), self.Wh))
        return torch.add(torch.mul(torch.sub(1, f), h), torch.mul(f, candidate))


class LightGRU(nn.Module):
    """Ravanelli et al. 2018. Idiom: batch norm by running statistics (F.batch_norm, training=False), relu."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.w = nn.Linear(input_size, 2 * hidden_size, bias=False)
        self.u = nn.Linear(hidden_size, 2 * hidden_size, bias=False)
        self.gamma, self.beta = nn.Parameter(torch.ones(2 * hidden_size)), nn.Parameter(torch.zeros(2 * hidden_size))
        self.register_buffer("mean", torch.linspace(-0.2, 0.2, 2 * hidden_size))
        self.register_buffer("var", torch.linspace(0.5, 1.5, 2 * hidden_size))

    def forward(self, x, h):
        wx = F.batch_norm(self.w(x), self.mean, self.var, self.gamma, self.beta, training=False)
        a, z = (wx + self.u(h)).chunk(2, 1)
        z = torch.sigmoid(z)
        return z * h + (1 - z) * F.relu(a)


class MinimalRNN(nn.Module):
    """Chen 2017. Idiom: nn.Sequential as an encoder of x."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(input_size, hidden_size), nn.Tanh())
        self.u = nn.Sequential(nn.Linear(2 * hidden_size, hidden_size), nn.Sigmoid())

    def forward(self, x, h):
        z = self.phi(x)
        u = self.u(torch.cat([h, z], 1))
        return u * h + (1.0 - u) * z


class UGRNN(nn.Module):
    """Collins et al. 2017. Idiom: torch.concat, views of one Linear's weight."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.both = nn.Linear(input_size + hidden_size, 2 * hidden_size)

    def forward(self, x, h):
        w_c, w_g = self.both.weight.chunk(2)
        b_c, b_g = self.both.bias.chunk(2)
        xh = torch.concat([x, h], axis=1)
        g = torch.sigmoid(xh @ w_g.T + b_g)
        return g * h + (1 - g) * torch.tanh(xh @ w_c.T + b_c)


class IntersectionRNN(nn.Module):
    """+RNN, Collins et al. 2017. Idiom: an output through depth, another than the state."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.lift = nn.Linear(input_size, hidden_size)
        self.h_in, self.y_in, self.gh, self.gy = (nn.Linear(2 * hidden_size, hidden_size) for _ in range(4))

    def forward(self, x, h):
        x = self.lift(x)
        both = torch.cat([x, h], -1)
        gy, gh = self.gy(both).sigmoid(), self.gh(both).sigmoid()
        y = gy * x + (1 - gy) * self.y_in(both).relu()
        return y, gh * h + (1 - gh) * self.h_in(both).tanh()


class MUT(nn.Module):
    """Jozefowicz et al. 2015, the three mutants. Idiom: a switch in forward, a submodule that may be None."""

    def __init__(self, input_size, hidden_size, which):
        super().__init__()
        self.which = which
        self.xz, self.xr, self.xh = (nn.Linear(input_size, hidden_size) for _ in range(3))
        self.hz = None if which == 1 else nn.Linear(hidden_size, hidden_size, bias=False)
        self.hr, self.hh = (nn.Linear(hidden_size, hidden_size, bias=False) for _ in range(2))

    def forward(self, x, h):
        if self.which == 1:
            z = self.xz(x)
        elif self.which == 2:
            z = self.xz(x) + self.hz(h)
        else:
            z = self.xz(x) + self.hz(torch.tanh(h))
        z, r = torch.sigmoid(z), torch.sigmoid(self.xr(x) + self.hr(h))
        inner = torch.tanh(self.xh(x)) if self.which == 1 else self.xh(x)
        return torch.tanh(self.hh(r * h) + inner) * z + h * (1 - z)


class RAN(nn.Module):
    """Lee et al. 2017. Idiom: out[:, :H] = ... on a new tensor."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.content = nn.Linear(input_size, hidden_size, bias=False)
        self.x_gates, self.h_gates = nn.Linear(input_size, 2 * hidden_size), nn.Linear(hidden_size, 2 * hidden_size)

    def forward(self, x, state):
        h, c = state
        H = h.shape[1]
        pre = torch.zeros(x.shape[0], 2 * H, dtype=x.dtype, device=x.device)
        pre[:, :H] = self.x_gates(x)[:, :H] + self.h_gates(h)[:, :H]
        pre[:, H:] = self.x_gates(x)[:, H:] + self.h_gates(h)[:, H:]
        i, f = torch.sigmoid(pre[:, :H]), torch.sigmoid(pre[:, H:])
        c = i * self.content(x) + f * c
        return torch.tanh(c), c


class ATR(nn.Module):
    """Zhang et al. 2018. Idiom: einsum for both products."""

    def __init__(self, I, H):
        super().__init__()
        self.W, self.U = nn.Parameter(torch.randn(I, H)), nn.Parameter(torch.randn(H, H))

    def forward(self, x, h):
        p = torch.einsum("bi,ij->bj", x, self.W)
        q = torch.einsum("bk,kj->bj", h, self.U)
        return torch.sigmoid(p + q) * p + torch.sigmoid(p - q) * h


class CFN(nn.Module):
    """Laurent & von Brecht 2017. Idiom: nn.ParameterList in pairs."""

    def __init__(self, I, H):
        super().__init__()
        self.V = nn.ParameterList([nn.Parameter(torch.randn(I, H)) for _ in range(3)])
        self.U = nn.ParameterList([nn.Parameter(torch.randn(H, H)) for _ in range(2)])
        self.b = nn.ParameterList([nn.Parameter(torch.ones(H)) for _ in range(2)])

    def forward(self, x, h):
        theta, eta = [torch.sigmoid(h @ U + x @ V + b) for U, V, b in zip(self.U, self.V, self.b, strict=False)]
        return theta * torch.tanh(h) + eta * torch.tanh(x @ self.V[2])


class STAR(nn.Module):
    """Turkoglu et al. 2021. Idiom: torch.lerp with a tensor."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.x_K, self.x_z = nn.Linear(input_size, hidden_size), nn.Linear(input_size, hidden_size)
        self.h_K = nn.Linear(hidden_size, hidden_size)

    def forward(self, inputs, hidden):
        gain = torch.sigmoid(self.x_K(inputs) + self.h_K(hidden))
        return torch.tanh(torch.lerp(hidden, torch.tanh(self.x_z(inputs)), gain))


class FastGRNN(nn.Module):
    """Kusupati et al. 2018. Idiom: low-rank weights multiplied out, two biases, scalars of shape (1, 1)."""

    def __init__(self, input_size, hidden_size, rank=3):
        super().__init__()
        self.W1, self.W2 = nn.Parameter(torch.randn(input_size, rank)), nn.Parameter(torch.randn(rank, hidden_size))
        self.U1, self.U2 = nn.Parameter(torch.randn(hidden_size, rank)), nn.Parameter(torch.randn(rank, hidden_size))
        self.bias_gate, self.bias_update = (nn.Parameter(torch.ones(1, hidden_size)) for _ in range(2))
        self.zeta, self.nu = nn.Parameter(torch.ones(1, 1)), nn.Parameter(-4 * torch.ones(1, 1))

    def forward(self, x, h):
        pre = x @ (self.W1 @ self.W2) + h @ (self.U1 @ self.U2)
        z, c = torch.sigmoid(pre + self.bias_gate), torch.tanh(pre + self.bias_update)
        return z * h + (torch.sigmoid(self.zeta) * (1.0 - z) + torch.sigmoid(self.nu)) * c


CELLS = {
    "gru-reset-before": Entry(GRUv1),
    "gru-reset-after": Entry(GRUv3),
    "mgu": Entry(MGU),
    "light-gru": Entry(LightGRU),
    "minimal-rnn": Entry(MinimalRNN),
    "ugrnn": Entry(UGRNN),
    "intersection-rnn": Entry(IntersectionRNN),
    **{f"mut{k}": Entry(lambda i, h, k=k: MUT(i, h, k)) for k in (1, 2, 3)},
    "ran": Entry(RAN, two),
    "atr": Entry(ATR),
    "cfn": Entry(CFN),
    "star": Entry(STAR),
    "fastgrnn": Entry(FastGRNN),
}
