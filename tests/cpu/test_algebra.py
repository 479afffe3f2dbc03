"""What a layer is, as a list of equations between ways to run it: for every library cell, in sizes of any kind."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import cellwright as cw
from cellwright.cells import LIBRARY
from tests.cpu.layers import same
from tests.oracle import CORE, flat


def in_two(layer, x, cut):
    first, state = layer(x[:cut])
    second, state = layer(x[cut:], state)
    return [torch.cat([first, second]), *flat(state)]


def two_runs(layer, x, cut):
    """One layer in both directions, as a run on x and one on x turned around."""
    halves = [cw.Recurrent([cell], backend="c") for cell in layer.cells]
    forward, last = halves[0](x)
    backward, first = halves[1](x.flip(0))
    return [
        torch.cat([forward, backward.flip(0)], 2),
        *(torch.cat(pair) for pair in zip(flat(last), flat(first), strict=True)),
    ]


def rows_apart(layer, x, cut):
    runs = [flat(layer(x[:, b : b + 1])) for b in range(x.shape[1])]
    return [torch.cat(one, 1) for one in zip(*runs, strict=True)]


def packed(layer, x, cut):
    lengths = [1 + (cut + b) % len(x) for b in range(x.shape[1])]
    y, state = layer(pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False))
    return [pad_packed_sequence(y, total_length=len(x))[0], *flat(state)]


def with_lengths(layer, x, cut):
    return flat(layer(x, lengths=[1 + (cut + b) % len(x) for b in range(x.shape[1])]))


def reset_at(layer, x, cut):
    resets = torch.zeros(x.shape[:2], dtype=torch.bool)
    resets[cut] = True
    return flat(layer(x, resets=resets))


def anew_at(layer, x, cut):
    second, state = layer(x[cut:])
    return [torch.cat([layer(x[:cut])[0], second]), *flat(state)]


def whole(layer, x, cut):
    return flat(layer(x))


EQUATIONS = {
    "T at once is T in two, the state carried": (1, whole, in_two),
    "both directions are two runs": (2, whole, two_runs),
    "rows side by side are rows apart": (1, whole, rows_apart),
    "rows side by side are rows apart, both directions": (2, whole, rows_apart),
    "packed is padded with lengths": (1, packed, with_lengths),
    "packed is padded with lengths, both directions": (2, packed, with_lengths),
    "a reset is a new sequence": (1, reset_at, anew_at),
    "unbatched is a batch of one": (
        1,
        lambda n, x, c: flat(n(x[:, 0])),
        lambda n, x, c: [s.squeeze(1) for s in flat(n(x[:, :1]))],
    ),
}


@cache
def made(name, inputs, hidden, both):
    """A layer, planned and compiled once for all equations."""
    return cw.Recurrent(LIBRARY[name](inputs, hidden).double(), 1, both, backend="c")


@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.parametrize("name", CORE)
@settings(max_examples=8, deadline=None)
@given(st.integers(2, 9), st.integers(1, 17), st.sampled_from([1, 3]), st.sampled_from([1, 9]), st.data())
def test_both_sides_of_an_equation(name, equation, steps, batch, inputs, hidden, data):
    directions, left, right = EQUATIONS[equation]
    layer = made(name, inputs, hidden, directions == 2)
    x = torch.randn(steps, batch, inputs, dtype=torch.float64, requires_grad=True)
    cut = data.draw(st.integers(1, steps - 1))
    found = []
    for side in (left, right):
        parts = side(layer, x, cut)
        torch.manual_seed(0)
        total = sum((one * torch.randn_like(one)).sum() for one in parts)
        found.append([*parts, *torch.autograd.grad(total, [x, *layer.parameters()])])
    same(*found, atol=1e-11)
