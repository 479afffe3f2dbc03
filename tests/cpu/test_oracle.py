"""Cells from their equations equal torch.nn with the same weights: outputs, final states, all gradients."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cellwright import Recurrent
from cellwright.cells import GRU, LIBRARY, LSTM, RNN
from tests.oracle import CORE, assert_same, flat

ATOL = 1e-12
CELLS = {
    "rnn": (RNN, nn.RNN, {}),
    "rnn-relu": (lambda i, h, **kw: RNN(i, h, nonlinearity="relu", **kw), nn.RNN, {"nonlinearity": "relu"}),
    "gru": (GRU, nn.GRU, {}),
    "lstm": (LSTM, nn.LSTM, {}),
}
ORDER = {"rnn": "h", "rnn-relu": "h", "gru": "rzn", "lstm": "ifgo"}


def twin(name, layer, num_layers, bidirectional, bias, **options):
    """The layer of torch.nn with the weights of ours, each gate copied to its place by hand."""
    theirs = CELLS[name][1](
        3, 5, num_layers, bias=bias, bidirectional=bidirectional, **CELLS[name][2], **options
    ).double()
    suffixes = [f"_l{k}{d}" for k in range(num_layers) for d in ["", "_reverse"][: 1 + bidirectional]]
    with torch.no_grad():
        for cell, suffix in zip(layer.cells, suffixes, strict=True):
            for block, gate in enumerate(ORDER[name]):
                rows = slice(5 * block, 5 * block + 5)
                getattr(theirs, "weight_ih" + suffix)[rows] = getattr(cell, f"W_x{gate}").T
                getattr(theirs, "weight_hh" + suffix)[rows] = getattr(cell, f"W_h{gate}").T
                if bias:
                    inner = getattr(cell, f"b_h{gate}", None)
                    getattr(theirs, "bias_ih" + suffix)[rows] = getattr(cell, f"b_{gate}")
                    getattr(theirs, "bias_hh" + suffix)[rows] = 0 if inner is None else inner
    return theirs


@pytest.mark.parametrize("backend", ["eager", "torch"])
@pytest.mark.parametrize(("num_layers", "bidirectional"), list(itertools.product([1, 2], [False, True])))
@pytest.mark.parametrize("name", CELLS)
def test_outputs_and_states_equal_torch(name, num_layers, bidirectional, backend):
    for bias, batch_first, given_state in itertools.product([True, False], repeat=3):
        layer = Recurrent(
            CELLS[name][0](3, 5, bias=bias), num_layers, bidirectional, batch_first, backend=backend
        ).double()
        theirs = twin(name, layer, num_layers, bidirectional, bias, batch_first=batch_first)
        x = torch.randn(7, 2, 3, dtype=torch.float64)
        state = None
        if given_state:
            state = tuple(torch.randn(len(layer.cells), 2, 5, dtype=torch.float64) for _ in layer.first_cell.state)
            state = state if len(state) > 1 else state[0]
        x = x.transpose(0, 1) if batch_first else x
        for one, other in zip(flat(layer(x, state)), flat(theirs(x, state)), strict=True):
            torch.testing.assert_close(one, other, atol=ATOL, rtol=ATOL)


@pytest.mark.parametrize("backend", ["eager", "torch"])
@pytest.mark.parametrize(("num_layers", "bidirectional"), list(itertools.product([1, 2], [False, True])))
@pytest.mark.parametrize("name", CELLS)
def test_gradients_equal_torch(name, num_layers, bidirectional, backend):
    """Gradients in x, in every initial state and in every weight, through torch.nn's own stacked weights."""
    layer = Recurrent(CELLS[name][0](3, 5), num_layers, bidirectional, backend=backend).double()
    theirs = twin(name, layer, num_layers, bidirectional, True)
    count, states = len(layer.cells), len(layer.first_cell.state)
    x = torch.randn(7, 2, 3, dtype=torch.float64, requires_grad=True)
    state = [torch.randn(count, 2, 5, dtype=torch.float64, requires_grad=True) for _ in range(states)]
    given_state = tuple(state) if states > 1 else state[0]
    weights = [torch.randn_like(value) for value in flat(layer(x, given_state))]

    def gradients(module, parameters):
        total = sum((w * v).sum() for w, v in zip(weights, flat(module(x, given_state)), strict=True))
        return torch.autograd.grad(total, [x, *state, *parameters])

    ours = gradients(layer, layer.parameters())
    other = gradients(theirs, theirs.parameters())
    for left, right in zip(ours[: 1 + states], other[: 1 + states], strict=True):
        torch.testing.assert_close(left, right, atol=ATOL, rtol=ATOL)
    named = dict(zip((n for n, _ in layer.named_parameters()), ours[1 + states :], strict=True))
    torch_named = dict(zip((n for n, _ in theirs.named_parameters()), other[1 + states :], strict=True))
    for place in range(count):
        suffix = f"_l{place // (1 + bidirectional)}" + ("_reverse" if bidirectional and place % 2 else "")
        for block, gate in enumerate(ORDER[name]):
            rows = slice(5 * block, 5 * block + 5)
            pairs = [("W_x", "weight_ih"), ("W_h", "weight_hh"), ("b_", "bias_ih"), ("b_h", "bias_hh")]
            for mine, stacked in pairs:
                found = named.get(f"cells.{place}.{mine}{gate}")
                if found is not None:
                    wanted = torch_named[stacked + suffix][rows]
                    torch.testing.assert_close(found, wanted if found.dim() == 1 else wanted.T, atol=ATOL, rtol=ATOL)


@pytest.mark.parametrize("name", [name for name in CORE if name != "gru-reset-before"])
@settings(deadline=None, max_examples=25)
@given(
    steps=st.integers(1, 13),
    batch=st.integers(1, 5),
    inputs=st.integers(1, 7),
    hidden=st.sampled_from([1, 2, 3, 7, 11]),
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
)
def test_both_backends_agree_at_any_size(name, steps, batch, inputs, hidden, layers, bidirectional):
    fast = Recurrent(LIBRARY[name](inputs, hidden), layers, bidirectional, backend="torch").double()
    plain = Recurrent(list(fast.cells), layers, bidirectional, backend="eager")
    states = len(fast.first_cell.state)
    shapes = [(steps, batch, inputs)] + [(len(fast.cells), batch, hidden)] * states
    values = [torch.randn(shape, dtype=torch.float64) for shape in shapes]

    def run(layer):
        return lambda x, *state: layer(x, state if states > 1 else state[0])

    assert_same(run(fast), run(plain), values, atol=1e-11)


def test_gru_forms_agree_while_the_reset_gate_is_open_and_differ_otherwise():
    before, after = GRU(3, 5, reset_after=False).double(), GRU(3, 5).double()
    missing = before.state_dict() | {"b_hn": torch.zeros(5)}
    after.load_state_dict(missing)
    x, h = torch.randn(2, 3).double(), torch.randn(2, 5).double()
    assert not torch.allclose(before(x, h), after(x, h))
    for cell in (before, after):
        cell.b_r.data.fill_(100.0)
    torch.testing.assert_close(before(x, h), after(x, h), atol=ATOL, rtol=ATOL)
