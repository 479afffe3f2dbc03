"""Cells of strangers, plain nn.Modules, run fused in C without a change: results and all gradients as step by step."""

import pytest
import torch
from torch import nn

import cellwright as cw
from tests.cpu.strangers import (
    POSITIVE,
    STRANGERS,
    draw_weights,
    first_states,
    output_width,
    unroll_stranger,
    widths,
)
from tests.oracle import assert_same, flat, tolerance

T, B = 5, 3
NOT_FUSED = {  # and why: these run step by step
    "maxout-gate": "max is not among the operations",
    "shared-weights": "an index depends on weights",
}
ROUNDED = {"hard-gru": 1e-7}  # PyTorch's own derivative of hardsigmoid takes 1/6 as a float32, also in float64
FUSED = sorted(set(STRANGERS) - set(NOT_FUSED))


def layer_of(module: nn.Module, name: str, inputs: int, hidden: int, backend: str) -> cw.Recurrent:
    cell = cw.adapt(module, input_size=inputs, state_sizes=widths(name, hidden), output_size=output_width(name, hidden))
    return cw.Recurrent(cell, backend=backend)


def by_layer(layer: cw.Recurrent, states: int):
    """The layer as a function of x, its first states and its parameters."""
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *rest):
        state = tuple(s.unsqueeze(0) for s in rest[:states])  # (1, B, width)
        parameters = dict(zip(names, rest[states:], strict=True))
        y, last = torch.func.functional_call(layer, parameters, (x, state if states > 1 else state[0]))
        return y, tuple(s.squeeze(0) for s in (last if states > 1 else (last,)))

    return run


def by_loop(module: nn.Module, states: int):
    """The same by the plain loop over the stranger's module, which knows nothing of the library."""
    names = [name for name, _ in module.named_parameters()]

    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, x, state):
            return unroll_stranger(self.module, x, state)

    loop = Loop()

    def run(x, *rest):
        parameters = {f"module.{name}": value for name, value in zip(names, rest[states:], strict=True)}
        return torch.func.functional_call(loop, parameters, (x, rest[:states]))

    return run


def given(name: str, inputs: int, hidden: int, dtype: torch.dtype):
    """The module with random weights; x, first states and parameters."""
    module = draw_weights(STRANGERS[name](inputs, hidden)).to(dtype)
    x = torch.randn(T, B, inputs, dtype=dtype)
    return module, [x, *first_states(name, B, hidden, dtype), *module.parameters()]


@pytest.mark.parametrize(
    ("name", "inputs", "hidden", "dtype"),
    [(name, 3, 8, torch.float64) for name in FUSED] + [(name, 5, 6, torch.float32) for name in FUSED[::4]],
)
def test_a_stranger_fuses_without_change(name, inputs, hidden, dtype):
    module, values = given(name, inputs, hidden, dtype)
    states = len(widths(name, hidden))
    fused, plain = (layer_of(module, name, inputs, hidden, backend) for backend in ("c", "eager"))
    assert "backend c" in fused.explain()
    atol = max(tolerance(dtype, T), ROUNDED.get(name, 0))
    assert_same(by_layer(fused, states), by_layer(plain, states), values, atol=atol)


@pytest.mark.parametrize(("name", "reason"), NOT_FUSED.items())
def test_what_cannot_be_fused_says_why_and_runs(name, reason):
    module, values = given(name, 3, 8, torch.float64)
    states = len(widths(name, 8))
    auto = layer_of(module, name, 3, 8, "auto")
    assert reason in auto.explain()
    for one, other in zip(flat(by_layer(auto, states)(*values)), flat(by_loop(module, states)(*values)), strict=True):
        torch.testing.assert_close(one, other, atol=tolerance(torch.float64, T), rtol=0)


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_step_by_step_is_the_stranger_in_a_loop_of_his_own(name):
    module, values = given(name, 3, 8, torch.float64)
    states = len(widths(name, 8))
    ours, theirs = by_layer(layer_of(module, name, 3, 8, "eager"), states), by_loop(module, states)
    assert_same(ours, theirs, values, atol=tolerance(torch.float64, T))


@pytest.mark.parametrize("name", STRANGERS)
def test_every_parameter_and_every_state_matters(name):
    """Of the cells themselves: a gradient that is zero everywhere would test nothing."""
    module, values = given(name, 3, 8, torch.float64)
    values = [one.detach().requires_grad_() for one in values]
    y, last = by_loop(module, len(widths(name, 8)))(*values)
    assert y.shape == (T, B, output_width(name, 8))
    assert [s.shape[1] for s in last] == list(widths(name, 8))
    total = sum((torch.randn_like(one) * one).sum() for one in (y, *last))
    for gradient in torch.autograd.grad(total, values):
        assert gradient.isfinite().all()
        assert gradient.any()


def test_the_states_said_to_be_positive_stay_so():
    for name, places in POSITIVE.items():
        module, (x, *rest) = given(name, 3, 8, torch.float64)
        _, last = unroll_stranger(module, x, tuple(rest[: len(widths(name, 8))]))
        assert all((last[place] > 0).all() for place in places)
