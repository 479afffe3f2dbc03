"""A cell of one's own, from its equations to a trained layer: python examples/own_cell.py

The minimal gated unit (Zhou et al. 2016, arXiv 1603.09420) learns to add two marked numbers of a sequence.
"""

import torch
from torch import nn

import cellwright as cw


class MinimalGate(cw.Cell):
    state = ("h",)
    gates = {"f": "forget gate", "g": "candidate"}

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.add_gates()

    def step(self, x, h):  # x (B, I), h (B, H)
        f = torch.sigmoid(x @ self.W_xf + h @ self.W_hf + self.b_f)
        g = torch.tanh(x @ self.W_xg + (f * h) @ self.W_hg + self.b_g)
        h = (1 - f) * h + f * g
        return h


def batch(steps=10, rows=64):
    """Numbers and two marks, (T, B, 2); the sum of the marked numbers, (B,)."""
    numbers, marks = torch.rand(steps, rows), torch.zeros(steps, rows)
    places = torch.rand(steps, rows).topk(2, dim=0).indices  # (2, B)
    marks.scatter_(0, places, 1.0)
    return torch.stack([numbers, marks], dim=-1), (numbers * marks).sum(0)


def main(updates=400):
    torch.manual_seed(0)
    layer, readout = cw.Recurrent(MinimalGate(2, 32)), nn.Linear(32, 1)
    print(layer.explain())
    print(cw.parameter_table(layer))
    parameters = [*layer.parameters(), *readout.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    for update in range(1, updates + 1):
        x, target = batch()
        y, _ = layer(x)  # (T, B, H)
        loss = nn.functional.mse_loss(readout(y[-1]).squeeze(1), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % 100 == 0:
            print(f"update {update}: mean squared error {loss.item():.4f} (always answering 1: 0.167)")
    return loss.item()


if __name__ == "__main__":
    main()
