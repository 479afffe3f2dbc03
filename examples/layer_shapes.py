"""The LSTM layer with 5 input features, 6 units and 2 layers, one-way and bidirectional: every shape, and that its
numbers are torch.nn.LSTM's: python examples/layer_shapes.py
"""

import torch

import cellwright as cw

T, B = 7, 3


def run(layer, directions):
    """Run a layer on (T, B, 5), show and check its shapes; the largest difference from torch.nn.LSTM."""
    x = torch.randn(T, B, 5)
    y, (h, c) = layer(x)
    assert y.shape == (T, B, directions * 6)  # of the last layer, at every step
    assert h.shape == c.shape == (2 * directions, B, 6)  # of every layer and direction, after its last step
    ahead = y[-1, :, :6], h[-directions]  # forward ends at the last step
    assert torch.equal(*ahead)
    if directions == 2:
        assert torch.equal(y[0, :, 6:], h[-1])  # backward ends at the first
    print(f"x {tuple(x.shape)} -> y {tuple(y.shape)}, h {tuple(h.shape)}, c {tuple(c.shape)}")
    known, (known_h, known_c) = cw.to_torch(layer)(x)
    return max((one - other).abs().max().item() for one, other in ((y, known), (h, known_h), (c, known_c)))


def main():
    torch.manual_seed(0)
    one_way, both = cw.LSTM(5, 6, 2), cw.LSTM(5, 6, 2, bidirectional=True)
    worst = max(run(one_way, 1), run(both, 2))
    print(cw.parameter_table(one_way))
    print(f"one-way {cw.parameter_table(one_way).count} numbers, bidirectional {cw.parameter_table(both).count}")
    assert cw.parameter_table(both).count == 2 * 4 * 6 * (5 + 6 + 2) + 2 * 4 * 6 * (12 + 6 + 2)
    return worst


if __name__ == "__main__":
    main()
