"""Every cell of the library is what its paper says, by a second transcription in NumPy made without the first."""

from functools import partial
from zlib import crc32

import numpy as np
import pytest
import torch

from cellwright.cells import CLASSES, LIBRARY
from tests.cpu.oracles import ORACLES, maths
from tests.oracle import flat

I, H, B = 3, 4, 4
APART = {  # cells that no name builds from two sizes alone
    "mc-lstm": lambda: CLASSES["MCLSTM"](I, H),
    "gru-d": lambda: CLASSES["GRUD"](6, H, mean=[0.5, -1.0]),
}
NAMES = [*LIBRARY, *APART]
OPTIONS = {  # what else an argument makes of a class, and what that is of its oracle
    "RAN squash": ("ran", {"squash": False}, {"squash": maths.identity}),
    "GRU bias": ("gru", {"bias": False}, {}),
    "LSTM bias": ("lstm", {"bias": False}, {}),
    "IndRNN nonlinearity": ("indrnn", {"nonlinearity": "tanh"}, {"phi": maths.tanh}),
    "RecurrentHighway depth": ("recurrent-highway", {"depth": 1}, {}),
    "SRU alpha": ("sru", {"alpha": 1.5}, {"alpha": 1.5}),
    "LSTMP peepholes": ("lstmp", {"peepholes": False, "proj_size": 3}, {}),
    "PeepholeLSTM without": ("lstm-peephole", {"without": ("peepholes",)}, {}),
    "JANET beta": ("janet", {"beta": 0.3}, {"beta": 0.3}),
    "SLSTM forget": ("slstm", {"forget": "exp"}, {"forget": "exp"}),
    "NASCell bias": ("nas", {"bias": True}, {}),
    "SCRN alpha": ("scrn", {"alpha": 0.7, "context_size": 2}, {"alpha": 0.7}),
    "AntisymmetricRNN gamma": ("antisymmetric", {"epsilon": 0.5, "gamma": 0.2}, {"epsilon": 0.5, "gamma": 0.2}),
    "CoRNN dt": ("cornn", *[{"dt": 0.5, "gamma": 1.3, "epsilon": 0.4}] * 2),
    "UnICORNN dt": ("unicornn", *[{"dt": 0.5, "alpha": 1.3}] * 2),
    "LEM dt": ("lem", {"dt": 0.5}, {"dt": 0.5}),
}
CASES = [*NAMES, *OPTIONS]
STEP = 1e-6  # of finite differences


def cell_and_oracle(case):
    """A cell in float64 with weights and buffers that are all random, and what computes its step from arrays."""
    name, options, changes = OPTIONS.get(case, (case, {}, {}))
    cell = (APART[name]() if name in APART else LIBRARY[name](I, H, **options)).double()
    with torch.no_grad():
        for value in (*cell.parameters(), *cell.buffers()):
            value.normal_(0, 0.4)
    return cell, partial(ORACLES[name], **changes)


def drawn_x(name, columns):
    """Wide enough that what is cut off somewhere, hard sigmoids farthest out, is met on both sides of the cut."""
    x = (12 if name in ("sgu", "dsgu") else 2) * torch.randn(B, columns, dtype=torch.float64)
    if name == "mc-lstm":
        x[:, 0].abs_()  # mass
    if name == "gru-d":
        x[:, 2:4] = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(B // 2, 1)  # what is measured
        x[:, 4:].abs_()  # times since
    return x


def drawn(case):
    """A cell, its oracle, its parameters and buffers as arrays by name, x and the states."""
    torch.manual_seed(crc32(case.encode()))
    cell, oracle = cell_and_oracle(case)
    p = {key: value.detach().numpy().copy() for key, value in (*cell.named_parameters(), *cell.named_buffers())}
    states = [torch.randn(B, size, dtype=torch.float64) for size in cell.state_sizes]
    if oracle.func in (ORACLES["slstm"], ORACLES["mc-lstm"]):  # which divide by a state that is positive
        states = [torch.rand_like(state) + 0.5 for state in states]
    return cell, oracle, p, drawn_x(case, cell.input_size), states


def results_of(oracle, p, values):
    results = oracle(p, *values)
    return results if isinstance(results, tuple) else (results,)


def differences(function, values):
    """The derivative of a number in every entry of an array, which is moved a little there and back."""
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


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_that_of_the_paper(case):
    cell, oracle, p, x, states = drawn(case)
    for begin in (states, cell.initial_state(B)):
        ours = flat(cell(x, *begin))
        theirs = results_of(oracle, p, [value.numpy() for value in (x, *begin)])
        for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert one.shape == other.shape, f"result {place}"
            assert np.abs(one.detach().numpy() - other).max() <= 1e-12, f"result {place}"


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_a_step_are_those_of_the_paper_in_all_that_it_reads(case):
    cell, oracle, p, x, states = drawn(case)
    arrays = [value.numpy().copy() for value in (x, *states)]
    results = flat(cell(x.requires_grad_(), *(state.requires_grad_() for state in states)))
    weights = [torch.randn_like(result) for result in results]

    def weighted(values):
        return sum((weight.numpy() * value).sum() for weight, value in zip(weights, values, strict=True))

    total = sum((weight * result).sum() for weight, result in zip(weights, results, strict=True))
    reads = {"x": (x, arrays[0])}
    reads |= {name: pair for name, *pair in zip(cell.state, states, arrays[1:], strict=True)}
    reads |= {f"parameter {name}": (value, p[name]) for name, value in cell.named_parameters()}
    gradients = torch.autograd.grad(total, [value for value, _ in reads.values()])
    for (name, (_, array)), gradient in zip(reads.items(), gradients, strict=True):
        expected = differences(lambda: weighted(results_of(oracle, p, arrays)), array)
        assert np.abs(gradient.numpy() - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max()), name
