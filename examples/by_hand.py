"""An LSTM step, checked by hand from its listed parameters: python examples/by_hand.py"""

import math

import torch

import cellwright as cw


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def lstm_by_hand(cell, x, h, c):
    """The LSTM's equations for one row, with nothing but Python's numbers; returns its new h and c."""

    def gate(name, squash):
        W_x, W_h, b = (getattr(cell, f"{kind}{name}").tolist() for kind in ("W_x", "W_h", "b_"))
        return [
            squash(sum(x[k] * W_x[k][j] for k in range(len(x))) + sum(h[k] * W_h[k][j] for k in range(len(h))) + b[j])
            for j in range(len(h))
        ]

    i, f, o, g = gate("i", sigmoid), gate("f", sigmoid), gate("o", sigmoid), gate("g", math.tanh)
    c = [f[j] * c[j] + i[j] * g[j] for j in range(len(h))]
    return [o[j] * math.tanh(c[j]) for j in range(len(h))], c


def main():
    torch.manual_seed(0)
    cell = cw.cells.LSTM(2, 3).double()
    print(cw.parameter_table(cell))
    x, h, c = (torch.randn(1, size, dtype=torch.float64) for size in (2, 3, 3))
    new_h, new_c = cell(x, h, c)
    hand_h, hand_c = lstm_by_hand(cell, x[0].tolist(), h[0].tolist(), c[0].tolist())
    print("h:", new_h.tolist()[0], "by hand:", hand_h)
    print("c:", new_c.tolist()[0], "by hand:", hand_c)
    return max(abs(a - b) for a, b in zip(new_h.tolist()[0] + new_c.tolist()[0], hand_h + hand_c, strict=True))


if __name__ == "__main__":
    main()
