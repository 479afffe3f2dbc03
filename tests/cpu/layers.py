"""Small layers for tests: a fused one and its twin step by step, and what they compute."""

import torch

from cellwright.cells import LSTM
from tests.oracle import flat, twins


def small(kind=LSTM, steps=3, batch=2, inputs=2, hidden=3):
    """A fused layer and its twin step by step, with x and the parameters, all in float64."""
    fused, plain = twins(kind(inputs, hidden).double())
    x = torch.randn(steps, batch, inputs, dtype=torch.float64, requires_grad=True)
    return fused, plain, x


def same(ours, theirs, atol=1e-12):
    for one, other in zip(flat(ours), flat(theirs), strict=True):
        torch.testing.assert_close(one, other, atol=atol, rtol=atol)


def results(layer, x):
    """Results and gradients in x and all weights."""
    y, last = layer(x)
    total = y.square().sum() + sum((k + 2) * s.sum() for k, s in enumerate(flat(last)))
    return (y.detach(), *torch.autograd.grad(total, [x, *layer.parameters()]))
