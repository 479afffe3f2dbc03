"""Deep, found, hard-gated and oddly written cells."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tests.cpu.strangers.entry import Entry, three, two


class RecurrentHighway(nn.Module):
    """Zilly et al. 2017, depth 3, coupled. Idiom: a Python for over the depth, x only in the first."""

    def __init__(self, input_size, hidden_size, depth=3):
        super().__init__()
        self.inp = nn.Linear(input_size, 2 * hidden_size, bias=False)
        self.layers = nn.ModuleList([nn.Linear(hidden_size, 2 * hidden_size) for _ in range(depth)])

    def forward(self, x, s):
        for depth, layer in enumerate(self.layers):
            pre = layer(s) + self.inp(x) if depth == 0 else layer(s)
            h, t = pre.chunk(2, dim=-1)
            t = torch.sigmoid(t)
            s = torch.tanh(h) * t + s * (1 - t)
        return s


class NASCell(nn.Module):
    """Zoph & Le 2017, the cell found on Penn Treebank. Idiom: eight chunks by list, sum and product nodes."""

    def __init__(self, input_size, num_units):
        super().__init__()
        self.inputs = nn.Linear(input_size, 8 * num_units, bias=False)
        self.memory = nn.Linear(num_units, 8 * num_units)

    def forward(self, x, state):
        m_prev, c_prev = state
        a, b = self.inputs(x).chunk(8, 1), self.memory(m_prev).chunk(8, 1)
        acts = [
            torch.sigmoid,
            torch.relu,
            torch.sigmoid,
            torch.relu,
            torch.tanh,
            torch.sigmoid,
            torch.tanh,
            torch.sigmoid,
        ]
        one = [act(p * q if k == 3 else p + q) for k, (act, p, q) in enumerate(zip(acts, a, b, strict=True))]
        two = [torch.tanh(one[0] * one[1]), torch.tanh(one[2] + one[3])]
        two += [torch.tanh(one[4] * one[5]), torch.sigmoid(one[6] + one[7])]
        c = torch.tanh(two[0] + c_prev) * two[1]
        return torch.tanh(c * torch.tanh(two[2] + two[3])), c


class NestedLSTM(nn.Module):
    """Moniz & Krueger 2017. Idiom: nn.LSTMCell as the memory of another LSTM."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.outer = nn.Linear(input_size + hidden_size, 4 * hidden_size)
        self.inner = nn.LSTMCell(hidden_size, hidden_size)

    def forward(self, x, state):
        h, c, c_inner = state
        i, f, g, o = torch.chunk(self.outer(torch.cat([x, h], 1)), 4, 1)
        c, c_inner = self.inner(torch.sigmoid(i) * torch.tanh(g), (torch.sigmoid(f) * c, c_inner))
        return torch.sigmoid(o) * torch.tanh(c), c, c_inner


class ZoneoutLSTM(nn.Module):
    """Krueger et al. 2017 as at evaluation. Idiom: nn.LSTMCell, F.dropout(training=False), an expectation by lerp."""

    def __init__(self, input_size, hidden_size, p_h=0.1, p_c=0.5):
        super().__init__()
        self.lstm, self.p_h, self.p_c = nn.LSTMCell(input_size, hidden_size), p_h, p_c

    def forward(self, x, state):
        new_h, new_c = self.lstm(F.dropout(x, 0.3, training=False), state)
        h, c = state
        return self.p_h * h + (1 - self.p_h) * new_h, torch.lerp(new_c, c, self.p_c)


class TwoLayerStack(nn.Module):
    """Two cells in one, with a residual. Idiom: nn.GRUCell and nn.RNNCell, a list of states returned as a tuple."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.layers = nn.ModuleList([nn.GRUCell(input_size, hidden_size), nn.RNNCell(hidden_size, hidden_size)])

    def forward(self, x, states):
        states = list(states)
        for k, layer in enumerate(self.layers):
            states[k] = layer(x, states[k])
            x = states[k] if k == 0 else x + states[k]
        return x, tuple(states)


class Mogrifier(nn.Module):
    """Melis et al. 2020, four rounds. Idiom: x and h gate each other in turn, before nn.LSTMCell."""

    def __init__(self, input_size, hidden_size, rounds=4):
        super().__init__()
        shapes = [(hidden_size, input_size), (input_size, hidden_size)]
        self.mog = nn.ModuleList(nn.Linear(*shapes[k % 2]) for k in range(rounds))
        self.cell = nn.LSTMCell(input_size, hidden_size, bias=False)

    def forward(self, x, state):
        h, c = state
        for k, layer in enumerate(self.mog):
            if k % 2 == 0:
                x = 2 * layer(h).sigmoid() * x
            else:
                h = 2 * layer(x).sigmoid() * h
        return self.cell(x, (h, c))


class HardGRU(nn.Module):
    """Hard gates. Idiom: F.hardsigmoid, F.hardtanh, clamp with one bound, torch.tensor(0.5) in the step."""

    def __init__(self, I, H):
        super().__init__()
        self.x, self.h = nn.Linear(I, 4 * H), nn.Linear(H, 4 * H)

    def forward(self, x, h):
        xr, xz, xn, xs = self.x(x).chunk(4, 1)
        hr, hz, hn, hs = self.h(h).chunk(4, 1)
        half = torch.tensor(0.5)
        r = F.hardsigmoid(xr + hr)
        z = torch.clamp(half + (xz + hz) * 0.2, min=0, max=1)
        n = F.hardtanh(xn + r * hn, -2.0, 2.0)
        return z * h + (1 - z) * n * (xs + hs).clamp(min=-1.0).clamp_max(3.0)


class Binarise(torch.autograd.Function):
    """A step forward, a clipped identity backward. Idiom: the new style, with setup_context."""

    @staticmethod
    def forward(x):
        return (x > 0).to(x.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x.abs() < 1).to(grad.dtype)


class OldBinarise(torch.autograd.Function):
    """The same. Idiom: the old style, ctx in forward."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.where(x > 0, torch.ones_like(x), torch.zeros_like(x))

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        grad = grad.clone()
        grad[x.abs() >= 1] = 0
        return grad


class StraightThrough(nn.Module):
    """Binary gates, Bengio et al. 2013. Idiom: a torch.autograd.Function."""

    def __init__(self, input_size, hidden_size, function):
        super().__init__()
        self.gate, self.new = (nn.Linear(input_size + hidden_size, hidden_size) for _ in range(2))
        self.function = function

    def forward(self, x, h):
        xh = torch.cat((x, h), dim=1)
        g = self.function.apply(self.gate(xh))
        return g * h + (1 - g) * torch.tanh(self.new(xh))


class FlatParameters(nn.Module):
    """A GRU in one vector. Idiom: parameters sliced and viewed out of a flat one, as hypernetworks have them."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.n, self.m = input_size, hidden_size
        self.theta = nn.Parameter(torch.randn(3 * hidden_size * (input_size + hidden_size + 1)) * 0.1)

    def forward(self, x, h):
        sizes = [self.n * 3 * self.m, self.m * 3 * self.m, 3 * self.m]
        W, U, b = self.theta.split(sizes)
        gx = torch.addmm(b, x, W.view(self.n, 3 * self.m))
        gh = h.mm(U.view(self.m, -1))
        r, z = (gx + gh)[:, : 2 * self.m].sigmoid().split(self.m, 1)
        n = torch.tanh(gx[:, 2 * self.m :] + r * gh[:, 2 * self.m :])
        return z * h + (1 - z) * n


class SharedWeights(nn.Module):
    """One Linear under two names. Idiom: tied submodules, .detach() on the path of a gate, index_select, roll."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.encode = nn.Linear(hidden_size, hidden_size)
        self.recur = self.encode
        self.lift = nn.Linear(input_size, hidden_size)
        self.register_buffer("order", torch.arange(hidden_size).flip(0))

    def forward(self, x, h):
        gate = torch.sigmoid(self.recur(h.detach()))
        mixed = h.index_select(1, self.order) + h.roll(1, dims=1)
        return gate * h + (1 - gate) * torch.tanh(self.encode(torch.tanh(self.lift(x))) + 0.5 * mixed)


class OddFunctions(nn.Module):
    """Rarer functions in one cell. Idiom: erf, log1p, sign, atan, asinh, softmin, logsumexp, exp2, **."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.a, self.b = nn.Linear(input_size, 2 * hidden_size), nn.Linear(hidden_size, 2 * hidden_size)

    def forward(self, x, h):
        u, v = (self.a(x) + self.b(h)).chunk(2, -1)
        squashed = torch.sign(u) * torch.log1p(torch.abs(u)) + torch.atan(v) / 3
        gate = 0.5 * (1 + torch.erf(v / 2**0.5))
        level = torch.logsumexp(torch.stack([u, v, h]), dim=0) - torch.exp2(-(u**2))
        return gate * h.asinh() + (1 - gate) * squashed + 0.1 * torch.tanh(level) * F.softmin(v, -1)


CELLS = {
    "recurrent-highway": Entry(RecurrentHighway),
    "nas": Entry(NASCell, two),
    "nested-lstm": Entry(NestedLSTM, three),
    "zoneout": Entry(ZoneoutLSTM, two),
    "two-layer-stack": Entry(TwoLayerStack, two),
    "mogrifier": Entry(Mogrifier, two),
    "hard-gru": Entry(HardGRU),
    "straight-through": Entry(lambda i, h: StraightThrough(i, h, Binarise)),
    "straight-through-old": Entry(lambda i, h: StraightThrough(i, h, OldBinarise)),
    "flat-parameters": Entry(FlatParameters),
    "shared-weights": Entry(SharedWeights),
    "odd-functions": Entry(OddFunctions),
}
