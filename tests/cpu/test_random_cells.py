"""Cells that nobody wrote, drawn from the table of operations: fused as step by step, results and all gradients."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cellwright as cw
from cellwright.kernels.choose import choose
from cellwright.step import capture
from cellwright.step.ops import OPS
from tests.cpu import random_cells
from tests.cpu.random_cells import PROGRAM, WIDTHS, RandomCell
from tests.oracle import flat

CLOSE = 1e-10


def results(cell, backend, x, states):
    """Results and gradients of a random weighting; of what nothing flows to, zeros."""
    inputs = [one.detach().requires_grad_() for one in (x, *states)] + list(cell.parameters())
    choice = choose(cell, backend, inputs[0])
    found = flat(choice.run(cell, inputs[0], tuple(inputs[1 : 1 + len(states)])))
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(one.shape, generator=generator, dtype=one.dtype) for one in found]
    total = sum((weight * one).sum() for weight, one in zip(weights, found, strict=True))
    grads = torch.autograd.grad(total, inputs, allow_unused=True)
    zeros = [torch.zeros_like(one) if grad is None else grad for one, grad in zip(inputs, grads, strict=True)]
    return [one.detach() for one in found] + zeros


def check(inputs, widths, program, has_output, steps, batch, threads):
    torch.manual_seed(0)
    module = RandomCell(inputs, widths, program, has_output)
    cell = cw.adapt(module, inputs, tuple(widths), module.output_size)
    x = torch.randn(steps, batch, inputs, dtype=torch.float64)
    states = [torch.randn(batch, width, dtype=torch.float64) / 2 for width in widths]
    choice = choose(cell, "auto", x.requires_grad_())
    if choice.backend == "eager":  # a limit that is said in words is no failure
        assert "shifted against each other" in choice.reason or "over 64" in choice.reason, choice.reason
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pairs = list(zip(results(cell, "c", x, states), results(cell, "eager", x, states), strict=True))
    finally:
        torch.set_num_threads(before)
    for place, (one, other) in enumerate(pairs):
        apart = (one - other).abs().max().item()
        assert apart <= CLOSE * (1 + other.abs().max().item()), f"{place}: {apart}"


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    inputs=st.integers(1, 5),
    widths=st.lists(WIDTHS, min_size=1, max_size=3),
    program=PROGRAM,
    has_output=st.booleans(),
    steps=st.integers(1, 4),
    batch=st.integers(1, 9),
    threads=st.integers(1, 2),
)
def test_a_random_cell_fused_equals_it_step_by_step(inputs, widths, program, has_output, steps, batch, threads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELLWRIGHT_CFLAGS", "-O1")  # quick to compile
        check(inputs, widths, program, has_output, steps, batch, threads)


FOUND = {  # the least cells with which a fault was found
    "a number between two parts of a pass": (1, [2], [("linear", 0, 1), ("unary", "atan", 0)], True, 1),
    "numbers that the pass computes itself": (
        1,
        [2],
        [
            ("linear", 0, 1),
            ("linear", 0, 1),
            ("linear", 0, 2),
            ("unary", "atan", 28),
            ("binary", "add", 0, 29),
            ("two", "outer", 0, 0),
        ],
        False,
        1,
    ),
    "a number in a product": (
        1,
        [1],
        [("binary", "addcmul", 9, 3), ("two", "cat", 6, 0), ("write", "rest", 1, 7), ("move", "pad", 5)],
        True,
        2,
    ),
    "some columns of x unused": (
        5,
        [5, 2, 4],
        [("linear", 8, 2), ("linear", 3, 3), ("move", "one", 5), ("unary", "rsqrt", 3)],
        True,
        2,
    ),
    "gradients of columns apart": (1, [13], [("binary", "mul", 0, 3), ("move", "turned", 9)], True, 2),
    "columns apart, of three states": (
        1,
        [3, 3, 3],
        [("two", "cat", 0, 1), ("unary", "expm1", 19), ("choice", "abs", 2, 4), ("move", "turned", 9)],
        False,
        1,
    ),
    "a gradient that is zero": (
        3,
        [3],
        [("vector", "add", 5), ("vector", "add", 2), ("choice", "where", 8, 3), ("write", "even", 7, 5)],
        False,
        2,
    ),
    "the derivative of sign": (1, [1], [("choice", "sign", 3, 8)], False, 2),
    "every second column written": (4, [1], [("write", "even", 11, 8)], False, 2),
    "a cumsum of columns apart": (
        1,
        [8, 1, 1],
        [
            ("move", "turned", 2),
            ("two", "cat", 1, 1),
            ("unary", "expm1", 7),
            ("over", "cumsum", 21),
            ("two", "cat", 10, 11),
            ("over", "norm", 1),
        ],
        False,
        2,
    ),
    "no columns": (1, [1], [("write", "rest", 6, 7)], False, 2),
    "numbers before the loop": (
        1,
        [1],
        [
            ("write", "column", 10, 10),
            ("over", "mean", 8),
            ("choice", "abs", 11, 4),
            ("vector", "mul", 6),
            ("over", "cumsum", 4),
            ("two", "outer", 22, 9),
            ("write", "column", 10, 5),
        ],
        False,
        2,
    ),
    "a product of zeros": (
        1,
        [4, 1, 1],
        [
            ("linear", 20, 17),
            ("linear", 10, 4),
            ("write", "rest", 4, 6),
            ("unary", "silu", 23),
            ("unary", "logsigmoid", 27),
            ("write", "rest", 11, 5),
        ],
        False,
        1,
    ),
    "the sum of a cumsum": (
        1,
        [1],
        [("linear", 8, 2), ("vector", "add", 10), ("over", "cumsum", 5), ("unary", "sin", 9)],
        False,
        1,
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_cells_that_were_once_wrong(name, monkeypatch):
    monkeypatch.setenv("CELLWRIGHT_CFLAGS", "-O1")
    inputs, widths, program, has_output, steps = FOUND[name]
    check(inputs, widths, program, has_output, steps, batch=9, threads=1)
    check(inputs, widths, program, has_output, steps, batch=2, threads=2)


def test_the_draws_reach_every_operation_of_the_table():
    torch.manual_seed(0)
    met = set()
    for kind in ("unary", "binary", "choice", "over", "move", "two"):
        for name in vars(random_cells)[{"choice": "CHOICES", "move": "MOVES"}.get(kind, kind.upper())]:
            program = [("linear", 0, 4), (kind, name, 0, 1)]
            module = RandomCell(2, [4], program, True)
            met |= {atom.op for atom in capture(cw.adapt(module, 2, (4,), module.output_size), torch.float64).atoms}
    assert set(OPS) - met == set()
