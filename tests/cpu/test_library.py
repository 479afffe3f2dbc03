"""Every cell of the library: fused as step by step, whole, ragged, reset, cut in two and as a stream; and modified."""

import pytest
import torch

from cellwright.cells import LIBRARY, Cell, LearnedState, Normed, RecurrentDropout, Residual, WeightDrop, Zoneout
from cellwright.program import plan
from cellwright.step import capture
from tests.oracle import as_function, assert_same, twins

T, B, I, H = 5, 3, 3, 5
LENGTHS = [3, 5, 1]
SHARE = 1e-10


def drawn(name: str) -> Cell:
    """The cell with random weights in float64: none is what it begins as, where much is zero or alike."""
    cell = LIBRARY[name](I, H).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.normal_(0, 0.4)
    return cell


@pytest.fixture(scope="module", params=LIBRARY)
def layers(request):
    """The same cell fused and step by step."""
    torch.manual_seed(3)
    return twins(drawn(request.param))


def states(layer, rows=B):
    """Random first states: positive, as those that are divided by have to be."""
    return [torch.rand(1, rows, size, dtype=torch.float64) + 0.5 for size in layer.first_cell.state_sizes]


def given(layer):
    x = torch.rand(T, B, layer.first_cell.input_size, dtype=torch.float64)
    return [x, *states(layer), *layer.parameters()]


def as_state(found):
    return found if len(found) > 1 else found[0]


def flat(y, state):
    return [y, *(state if isinstance(state, tuple) else (state,))]


def assert_close(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=SHARE, rtol=SHARE)


def test_fused_equals_step_by_step_with_all_gradients(layers):
    fused, plain = layers
    assert_same(as_function(fused), as_function(plain), given(fused), atol=SHARE)


def test_every_weight_and_every_state_matters(layers):
    _, plain = layers
    values = [one.detach().requires_grad_() for one in given(plain)]
    y, state = as_function(plain)(*values)
    total = sum((torch.randn_like(one) * one).sum() for one in flat(y, state))
    for gradient in torch.autograd.grad(total, values):
        assert gradient.isfinite().all()
        assert gradient.any()


def test_ragged_equals_each_sequence_alone(layers):
    fused, _ = layers
    x, first = given(fused)[0], states(fused)
    y, last = fused(x, as_state(first), lengths=LENGTHS)
    for row, length in enumerate(LENGTHS):
        alone = fused(x[:length, row : row + 1], as_state([s[:, row : row + 1] for s in first]))
        assert_close([y[:length, row : row + 1], *(s[:, row : row + 1] for s in flat(y, last)[1:])], flat(*alone))
        assert not y[length:, row].any()


def test_reset_equals_two_sequences_and_cut_equals_whole(layers):
    fused, _ = layers
    x, first = given(fused)[0], states(fused)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[2] = True
    before, between = fused(x[:2], as_state(first))
    after, last = fused(x[2:], between)
    assert_close(flat(*fused(x, as_state(first))), flat(torch.cat([before, after]), last))
    anew, last = fused(x[2:])
    assert_close(flat(*fused(x, as_state(first), resets=resets)), flat(torch.cat([before, anew]), last))


def test_a_stream_equals_the_whole(layers):
    fused, _ = layers
    x = given(fused)[0]
    stream = fused.stream(B)
    with torch.no_grad():
        assert_close([torch.stack([stream(x_t) for x_t in x])], [fused(x)[0]])


MODIFIERS = {
    "zoneout": lambda cell: Zoneout(cell, 0.3),
    "recurrent dropout": lambda cell: RecurrentDropout(cell, 0.3),
    "norms": lambda cell: Normed(cell, states=cell.state[:1]),
    "weight drop": WeightDrop,
    "learned state": LearnedState,
    "residual": Residual,
}


def planned(cell):
    """The plan of a cell's loops; raises what cannot be fused."""
    return plan(capture(cell.double(), torch.float64), cell.state, True)


@pytest.mark.parametrize(("place", "name"), list(enumerate(LIBRARY)))
def test_every_cell_fuses_modified(place, name):
    """One modifier for every cell in turn, and many at once; the whole table is in docs/cells.md."""
    chosen = list(MODIFIERS)[place % len(MODIFIERS)]
    cell = LIBRARY[name](I, H)
    matrices = [p for name, p in cell.named_parameters() if cell.roles[name][1] == "recurrent weight" and p.dim() == 2]
    if chosen == "weight drop" and not matrices:
        chosen = "zoneout"  # there is none to drop from
    assert planned(MODIFIERS[chosen](cell))
    assert planned(LearnedState(Zoneout(RecurrentDropout(Normed(LIBRARY[name](I, H))))))
