"""Cells with normalisations, and cells that mix their units: softmax, heads, maxout, low levels of order."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from tests.cpu.strangers.entry import Entry, two


class LayerNormLSTM(nn.Module):
    """Ba et al. 2016, LN on both products and on c. Idiom: nn.LayerNorm modules."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.weight_ih = nn.Parameter(torch.randn(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.randn(4 * hidden_size, hidden_size))
        self.layernorm_i, self.layernorm_h = nn.LayerNorm(4 * hidden_size), nn.LayerNorm(4 * hidden_size)
        self.layernorm_c = nn.LayerNorm(hidden_size)

    def forward(self, input, state):
        hx, cx = state
        igates = self.layernorm_i(torch.mm(input, self.weight_ih.t()))
        hgates = self.layernorm_h(torch.mm(hx, self.weight_hh.t()))
        ingate, forgetgate, cellgate, outgate = (igates + hgates).chunk(4, 1)
        cy = self.layernorm_c(forgetgate.sigmoid() * cx + ingate.sigmoid() * cellgate.tanh())
        return outgate.sigmoid() * cy.tanh(), cy


class LayerNormPerGate(nn.Module):
    """LN within each gate, as TensorFlow's. Idiom: F.layer_norm on (B, 3, H)."""

    def __init__(self, I, H):
        super().__init__()
        self.x2h, self.h2h = nn.Linear(I, 3 * H, bias=False), nn.Linear(H, 3 * H, bias=False)
        self.scale, self.shift = nn.Parameter(torch.ones(3, H)), nn.Parameter(torch.zeros(3, H))

    def forward(self, x, h):
        B, H = h.shape
        gx = F.layer_norm(self.x2h(x).view(B, 3, H), (H,)) * self.scale + self.shift
        gh = F.layer_norm(self.h2h(h).view(B, 3, H), [H], eps=1e-3)
        r, z = torch.sigmoid(gx[:, :2] + gh[:, :2]).unbind(1)
        n = torch.tanh(gx[:, 2] + r * gh[:, 2])
        return (1 - z) * n + z * h


class RMSNorm(nn.Module):
    """Zhang & Sennrich 2019."""

    def __init__(self, dim, eps=1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class RMSNormGRU(nn.Module):
    """GRU whose state is RMS-normed on the way in. Idiom: a submodule of one's own, and torch's F.rms_norm."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.norm = RMSNorm(hidden_size)
        self.gates = nn.Linear(input_size + hidden_size, 2 * hidden_size)
        self.cand = nn.Linear(input_size + hidden_size, hidden_size)

    def forward(self, x, h):
        hn = self.norm(h)
        r, z = self.gates(torch.cat([x, hn], -1)).sigmoid().chunk(2, -1)
        n = F.rms_norm(self.cand(torch.cat([x, r * hn], -1)), (h.shape[-1],), eps=1e-5)
        return h + z * (torch.tanh(n) - h)


class UnitSphereRNN(nn.Module):
    """A state of length one, as in RUM (Dangovski et al. 2019). Idiom: normalise by hand, F.normalize, h.norm."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.W, self.U = nn.Linear(input_size, hidden_size), nn.Linear(hidden_size, hidden_size)

    def forward(self, x, h):
        h = h / (h.norm(dim=-1, keepdim=True) + 1e-5)
        new = F.normalize(torch.tanh(self.W(x) + self.U(h)), dim=-1)
        mixed = h + new
        return mixed / torch.sqrt((mixed * mixed).sum(dim=1, keepdim=True) + 1e-5)


class StandardisedRNN(nn.Module):
    """LN written out. Idiom: mean, var and std of torch, unbiased or not."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.lin = nn.Linear(n_in + n_out, n_out)
        self.g = nn.Parameter(torch.ones(n_out))

    def forward(self, x, h):
        a = self.lin(torch.cat([x, h], 1))
        a = self.g * (a - a.mean(1, keepdim=True)) / torch.sqrt(a.var(1, keepdim=True, unbiased=False) + 1e-5)
        return torch.tanh(a) + 0.1 * h / (h.std(dim=1, keepdim=True) + 0.1)


class WeightNormLSTM(nn.Module):
    """Salimans & Kingma 2016. Idiom: torch.nn.utils.parametrizations.weight_norm."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.ih = weight_norm(nn.Linear(input_size, 4 * hidden_size))
        self.hh = weight_norm(nn.Linear(hidden_size, 4 * hidden_size, bias=False))

    def forward(self, x, state):
        h, c = state
        i, f, g, o = (self.ih(x) + self.hh(h)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


def cumax(x):
    return torch.cumsum(F.softmax(x, dim=-1), dim=-1)


class ONLSTM(nn.Module):
    """Shen et al. 2019. H divisible by the chunk size 2. Idiom: cumsum of softmax, (B, K, C) views, flip, expand."""

    def __init__(self, input_size, hidden_size, chunk_size=2):
        super().__init__()
        self.chunk_size, self.n_chunk, self.hidden_size = chunk_size, hidden_size // chunk_size, hidden_size
        self.ih = nn.Linear(input_size, 4 * hidden_size + 2 * self.n_chunk)
        self.hh = nn.Linear(hidden_size, 4 * hidden_size + 2 * self.n_chunk)

    def forward(self, x, state):
        hx, cx = state
        K, C = self.n_chunk, self.chunk_size
        gates = self.ih(x) + self.hh(hx)
        master_in, master_forget = gates[:, : 2 * K].chunk(2, 1)
        out, cell, inp, forget = gates[:, 2 * K :].view(-1, 4 * K, C).chunk(4, 1)
        master_in = 1 - cumax(master_in).unsqueeze(-1)
        master_forget = cumax(master_forget)[:, :, None]
        overlap = master_forget * master_in
        forget = torch.sigmoid(forget) * overlap + (master_forget - overlap)
        inp = torch.sigmoid(inp) * overlap + (master_in - overlap).expand(-1, K, C)
        cy = forget * cx.view(-1, K, C) + inp * torch.tanh(cell)
        hy = torch.sigmoid(out) * torch.tanh(cy)
        return hy.view(-1, self.hidden_size), cy.view(-1, self.hidden_size)


class MultiHeadBmm(nn.Module):
    """Block-diagonal recurrence. H divisible by the 2 heads. Idiom: view, transpose(0, 1), torch.baddbmm."""

    def __init__(self, input_size, hidden_size, heads=2):
        super().__init__()
        self.heads, self.dim = heads, hidden_size // heads
        self.inp = nn.Linear(input_size, hidden_size)
        self.R = nn.Parameter(torch.randn(heads, self.dim, self.dim))

    def forward(self, x, h):
        B = x.shape[0]
        wx = self.inp(x).view(B, self.heads, self.dim).transpose(0, 1)
        hs = h.view(B, self.heads, self.dim).permute(1, 0, 2)
        new = torch.baddbmm(wx, hs, self.R)
        return torch.tanh(new).transpose(0, 1).contiguous().view(B, -1)


class MultiHeadGRU(nn.Module):
    """Heads by einsum, as sLSTM's blocks. H divisible by the 2 heads. Idiom: einsum bhd,ghde->gbhe, unflatten."""

    def __init__(self, input_size, hidden_size, heads=2):
        super().__init__()
        d = hidden_size // heads
        self.heads = heads
        self.W = nn.Linear(input_size, 3 * hidden_size)
        self.R = nn.Parameter(torch.randn(3, heads, d, d))

    def forward(self, x, h):
        split = h.unflatten(-1, (self.heads, -1))
        wx = self.W(x).unflatten(-1, (3, self.heads, -1))
        rec = torch.einsum("bhd,ghde->gbhe", split, self.R)
        z, r = torch.sigmoid(wx[:, 0] + rec[0]), torch.sigmoid(wx[:, 1] + rec[1])
        return ((1 - z) * torch.tanh(wx[:, 2] + r * rec[2]) + z * split).flatten(-2)


class MixtureOfUpdates(nn.Module):
    """K candidate updates weighed by attention. Idiom: softmax over K, stack, einsum, a sum over dim=1."""

    def __init__(self, input_size, hidden_size, K=3):
        super().__init__()
        self.candidates = nn.ModuleList([nn.Linear(input_size + hidden_size, hidden_size) for _ in range(K)])
        self.score = nn.Linear(input_size + hidden_size, K)

    def forward(self, x, h):
        xh = torch.cat([x, h], dim=-1)
        weights = torch.softmax(self.score(xh), dim=-1)
        proposals = torch.stack([torch.tanh(layer(xh)) for layer in self.candidates], dim=1)
        return 0.5 * h + 0.5 * (weights.unsqueeze(-1) * proposals).sum(dim=1)


class MaxoutGate(nn.Module):
    """Goodfellow et al. 2013 in a gate. Idiom: view(B, H, k) and max over the last dimension, amax."""

    def __init__(self, input_size, hidden_size, k=3):
        super().__init__()
        self.k = k
        self.gate, self.new = (
            nn.Linear(input_size + hidden_size, k * hidden_size),
            nn.Linear(input_size, 2 * hidden_size),
        )

    def forward(self, x, h):
        pieces = self.gate(torch.cat([x, h], 1)).view(h.size(0), h.size(1), self.k)
        gate = torch.sigmoid(pieces.max(dim=-1)[0])
        new = self.new(x).reshape(h.size(0), 2, h.size(1)).amax(dim=1)
        return gate * h + (1 - gate) * torch.tanh(new)


CELLS = {
    "layernorm-lstm": Entry(LayerNormLSTM, two),
    "layernorm-per-gate": Entry(LayerNormPerGate),
    "rmsnorm-gru": Entry(RMSNormGRU),
    "unit-sphere": Entry(UnitSphereRNN),
    "standardised": Entry(StandardisedRNN),
    "weightnorm-lstm": Entry(WeightNormLSTM, two),
    "on-lstm": Entry(ONLSTM, two),  # H even
    "heads-bmm": Entry(MultiHeadBmm),  # H even
    "heads-einsum": Entry(MultiHeadGRU),  # H even
    "mixture-of-updates": Entry(MixtureOfUpdates),
    "maxout-gate": Entry(MaxoutGate),
}
