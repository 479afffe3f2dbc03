"""An LSTM cell as a graph of simple modules, four gates alike: parameters listed, drawn, checked by hand and against
torch.nn.LSTM, and fused as it stands: python examples/lstm_from_modules.py
"""

import math

import torch
from torch import nn

import cellwright as cw

I, H = 5, 6


class Gate(nn.Module):
    """squash(W x + b + U h)"""

    def __init__(self, input_size, hidden_size, squash):
        super().__init__()
        self.of_x = nn.Linear(input_size, hidden_size)
        self.of_h = nn.Linear(hidden_size, hidden_size, bias=False)
        self.squash = squash

    def forward(self, x, h):
        return self.squash(self.of_x(x) + self.of_h(h))


class LSTM(nn.Module):
    """One step from four gates; takes and returns (h, c), as torch.nn.LSTMCell does."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.input_gate = Gate(input_size, hidden_size, torch.sigmoid)
        self.forget_gate = Gate(input_size, hidden_size, torch.sigmoid)
        self.candidate = Gate(input_size, hidden_size, torch.tanh)
        self.output_gate = Gate(input_size, hidden_size, torch.sigmoid)

    def forward(self, x, state):
        h, c = state
        i, f = self.input_gate(x, h), self.forget_gate(x, h)
        g, o = self.candidate(x, h), self.output_gate(x, h)
        c = f * c + i * g
        h = o * torch.tanh(c)
        return h, c


def by_hand(cell, x, h, c):
    """The same step of one row from the listed parameters, with nothing but Python's numbers."""

    def gate(module, squash):
        W, U, b = (weight.tolist() for weight in (module.of_x.weight, module.of_h.weight, module.of_x.bias))
        sums = [sum(map(float.__mul__, W[j], x)) + b[j] + sum(map(float.__mul__, U[j], h)) for j in range(len(h))]
        return [squash(value) for value in sums]

    def sigmoid(value):
        return 1 / (1 + math.exp(-value))

    i, f, o = (gate(module, sigmoid) for module in (cell.input_gate, cell.forget_gate, cell.output_gate))
    g = gate(cell.candidate, math.tanh)
    c = [f[j] * c[j] + i[j] * g[j] for j in range(len(c))]
    return [o[j] * math.tanh(c[j]) for j in range(len(c))], c


@torch.no_grad()
def as_torch(cell):
    """torch.nn.LSTM with these weights: the gates' rows one below the other, in its order."""
    layer = nn.LSTM(cell.input_size, cell.hidden_size)
    gates = (cell.input_gate, cell.forget_gate, cell.candidate, cell.output_gate)
    layer.weight_ih_l0.copy_(torch.cat([gate.of_x.weight for gate in gates]))
    layer.weight_hh_l0.copy_(torch.cat([gate.of_h.weight for gate in gates]))
    layer.bias_ih_l0.copy_(torch.cat([gate.of_x.bias for gate in gates]))
    layer.bias_hh_l0.zero_()
    return layer


def gap(one, other):
    """The largest difference between two lists of tensors."""
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


def main():
    torch.manual_seed(0)
    cell = LSTM(I, H)
    print(cw.parameter_table(cell))  # four gates of 6 * 5 + 6 + 6 * 6 numbers
    print()
    print(cw.draw(cw.adapt(cell)))
    x, h, c = torch.randn(1, I), torch.randn(1, H), torch.randn(1, H)
    hand = by_hand(cell, x[0].tolist(), h[0].tolist(), c[0].tolist())
    one_step = gap(cell(x, (h, c)), [torch.tensor([values]) for values in hand])
    print(f"\none step by hand: {one_step:.0e} apart")
    layer, x = cw.Recurrent(cell), torch.randn(7, 3, I)  # x (T, B, I)
    y, (h, c) = layer(x)
    their_y, (their_h, their_c) = as_torch(cell)(x)
    layers = gap((y, h, c), (their_y, their_h, their_c))
    print(f"7 steps of 3 rows by torch.nn.LSTM: {layers:.0e} apart")
    print(layer.explain())
    return max(one_step, layers)


if __name__ == "__main__":
    main()
