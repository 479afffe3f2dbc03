"""Every cell of the library is what its paper says, by a second transcription in NumPy made without the first."""

import numpy as np
import pytest
import torch

from cellwright.cells import CLASSES, LIBRARY
from tests.cpu.oracles import ORACLES
from tests.oracle import flat

I, H, B = 3, 4, 4
APART = {  # classes that no name builds with two sizes alone
    "mc-lstm": lambda: CLASSES["MCLSTM"](I, H),
    "gru-d": lambda: CLASSES["GRUD"](6, H, mean=[0.5, -1.0]),
}
DIVIDE = ("slstm", "mc-lstm")  # by a state, which is positive
NAMES = [*LIBRARY, *APART]
STEP = 1e-6  # of finite differences


def built(name):
    """The cell, in float64, with weights and buffers that are all random."""
    cell = (APART[name]() if name in APART else LIBRARY[name](I, H)).double()
    with torch.no_grad():
        for value in (*cell.parameters(), *cell.buffers()):
            value.normal_(0, 0.4)
    return cell


def drawn_x(name, columns):
    """Wide enough that what is bounded by a kink meets both its sides."""
    x = 2 * torch.randn(B, columns, dtype=torch.float64)
    if name == "mc-lstm":
        x[:, 0].abs_()  # mass
    if name == "gru-d":
        x[:, 2:4] = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(B // 2, 1)  # what is measured
        x[:, 4:].abs_()  # time since
    return x


def drawn(name):
    """A cell, and the arrays its step is a function of, by name: p as dict, then x and states."""
    cell = built(name)
    p = {key: value.detach().numpy().copy() for key, value in (*cell.named_parameters(), *cell.named_buffers())}
    states = [torch.randn(B, size, dtype=torch.float64) for size in cell.state_sizes]
    if name in DIVIDE:
        states = [torch.rand_like(state) + 0.5 for state in states]
    return cell, p, [drawn_x(name, cell.input_size), *states]


def results_of(oracle, p, values):
    results = oracle(p, *values)
    return results if isinstance(results, tuple) else (results,)


def differences(function, values):
    """The derivative of a number in every entry of an array, by central differences; the array is changed and restored."""
    found = np.empty_like(values)
    for place in np.ndindex(values.shape):
        kept = values[place]
        values[place] = kept + STEP
        above = function()
        values[place] = kept - STEP
        found[place] = (above - function()) / (2 * STEP)
        values[place] = kept
    return found


def test_every_cell_of_the_library_has_an_oracle_and_no_other():
    assert sorted(ORACLES) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_that_of_the_paper(name):
    cell, p, values = drawn(name)
    ours = flat(cell(*values))
    theirs = results_of(ORACLES[name], p, [value.numpy() for value in values])
    assert len(ours) == len(theirs)
    for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert one.shape == other.shape, place
        assert np.abs(one.detach().numpy() - other).max() <= 1e-12, f"result {place}"


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_a_step_are_those_of_the_paper_in_everything_it_reads(name):
    cell, p, values = drawn(name)
    arrays = [value.numpy().copy() for value in values]
    values = [value.requires_grad_() for value in values]
    results = flat(cell(*values))
    weights = [torch.randn_like(result) for result in results]
    asked = {"x": values[0]} | {f"state {k}": value for k, value in enumerate(values[1:])}
    asked |= dict(cell.named_parameters())
    given = dict(zip(asked, arrays, strict=False)) | p
    total = sum((weight * result).sum() for weight, result in zip(weights, results, strict=True))

    def number():
        pairs = zip(weights, results_of(ORACLES[name], p, arrays), strict=True)
        return sum((weight.numpy() * result).sum() for weight, result in pairs)

    for key, gradient in zip(asked, torch.autograd.grad(total, list(asked.values())), strict=True):
        expected = differences(number, given[key])
        assert np.abs(gradient.numpy() - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max()), key
