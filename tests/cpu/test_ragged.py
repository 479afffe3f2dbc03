"""Ragged batches, resets and their like: the same as each sequence alone, for every cell, forward and backward."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import cellwright as cw
from cellwright.cells import LIBRARY
from cellwright.errors import ShapeError
from tests.cpu.layers import same
from tests.oracle import CORE, flat

BACKENDS = ("c", "eager")


def results(layer, x, run):
    """Outputs, final states and all gradients of a weighted sum of them; `run` gives y and the states."""
    x = x.clone().requires_grad_()
    y, state = run(layer, x)
    parts = [y, *flat(state)]
    torch.manual_seed(0)
    total = sum((one * torch.randn_like(one)).sum() for one in parts)
    return [one.detach() for one in parts] + list(torch.autograd.grad(total, [x, *layer.parameters()]))


def alone(layer, x, lengths, resets=None):
    """Every sequence by itself, cut at its resets, from a state of zeros each time."""
    ys, lasts = [], []
    for b, length in enumerate(lengths):
        cuts = [0, *([] if resets is None else [t for t in range(1, length) if resets[t, b]]), length]
        state, parts = None, []
        for start, stop in itertools.pairwise(cuts):
            y, state = layer(x[start:stop, b : b + 1])
            parts.append(y)
        padding = x.new_zeros(len(x) - length, 1, parts[0].shape[2])
        ys.append(torch.cat([*parts, padding]))
        lasts.append(flat(state))
    return torch.cat(ys, 1), tuple(torch.cat(one, 1) for one in zip(*lasts, strict=True))


SHAPES = [(1, False), (2, False), (1, True), (2, True)]
LENGTHS = [[5, 3, 3, 1], [2, 5, 1, 4, 5], [1, 1], [4], [6, 6, 6], [1, 7, 2, 3, 5, 7, 1, 4, 6, 2, 2, 7, 5, 3]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CORE)
def test_lengths_are_each_sequence_alone(name, backend):
    for (layers, both), lengths in itertools.product(SHAPES, LENGTHS):
        layer = cw.Recurrent(LIBRARY[name](2, 3).double(), layers, both, backend=backend)
        x = torch.randn(max(lengths), len(lengths), 2, dtype=torch.float64)
        ours = results(layer, x, lambda layer, x, lengths=lengths: layer(x, lengths=lengths))
        same(ours, results(layer, x, lambda layer, x, lengths=lengths: alone(layer, x, lengths)))
        dx = ours[-1 - len(list(layer.parameters()))]
        beyond = torch.arange(len(x)).unsqueeze(1) >= torch.tensor(lengths)
        assert not dx[beyond].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
def test_resets_cut_a_sequence_in_two(name, backend, ragged):
    torch.manual_seed(1)
    for layers in (1, 2):
        layer = cw.Recurrent(LIBRARY[name](2, 3).double(), layers, backend=backend)
        lengths = [4, 6, 1, 3, 6] if ragged else [6] * 5
        x = torch.randn(6, 5, 2, dtype=torch.float64)
        resets = torch.rand(6, 5) < 0.4
        given = {"resets": resets, **({"lengths": lengths} if ragged else {})}
        ours = results(layer, x, lambda layer, x, given=given: layer(x, **given))
        same(ours, results(layer, x, lambda layer, x, rest=(lengths, resets): alone(layer, x, *rest)))


def test_a_reset_at_the_first_step_forgets_the_given_state():
    for backend in BACKENDS:
        layer = cw.Recurrent(cw.cells.GRU(2, 3).double(), backend=backend)
        x = torch.randn(3, 2, 2, dtype=torch.float64)
        h = torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True)
        resets = torch.tensor([[True, False], [False, False], [False, False]])
        y = layer(x, h, resets=resets)[0]
        same([y[:, :1], y[:, 1:]], [layer(x[:, :1])[0], layer(x[:, 1:], h[:, 1:])[0]])
        (dh,) = torch.autograd.grad(y.sum(), h)
        assert not dh[0, 0].any()
        assert dh[0, 1].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_resets_are_mirrored_where_a_layer_reads_backward(backend):
    layer = cw.Recurrent(cw.cells.LSTM(2, 3).double(), 1, True, backend=backend)
    x = torch.randn(7, 3, 2, dtype=torch.float64)
    resets = torch.zeros(7, 3, dtype=torch.bool)
    resets[3] = True
    lengths = [7, 5, 6]
    whole = layer(x, lengths=lengths, resets=resets)[0]
    first, second = layer(x[:3])[0], layer(x[3:], lengths=[4, 2, 3])[0]
    same([whole], [torch.cat([first, second])])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sorted_", [True, False])
@pytest.mark.parametrize("both", [False, True])
def test_packed_is_padded_with_lengths(backend, sorted_, both):
    layer = cw.Recurrent(cw.cells.LSTM(2, 3).double(), 2, both, backend=backend)
    lengths = [6, 4, 4, 1] if sorted_ else [4, 1, 6, 4]
    x = torch.randn(6, 4, 2, dtype=torch.float64)
    first = tuple(torch.randn(4 if both else 2, 4, 3, dtype=torch.float64) for _ in range(2))
    packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=sorted_)
    y, state = layer(packed, first)
    assert isinstance(y, PackedSequence)
    wanted = layer(x, first, lengths=lengths)
    same([pad_packed_sequence(y)[0], *state], flat(wanted))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.sampled_from([1, 2, 5]), st.data())
def test_any_lengths_on_any_number_of_threads(lengths, threads, data):
    before = torch.get_num_threads()
    name = data.draw(st.sampled_from(CORE))
    resets = torch.rand(max(lengths), len(lengths)) < 0.3 if data.draw(st.booleans()) else None
    cell = LIBRARY[name](2, 9).double()
    x = torch.randn(max(lengths), len(lengths), 2, dtype=torch.float64)

    def run(layer, x):
        return layer(x, lengths=lengths, resets=resets)

    try:
        torch.set_num_threads(threads)
        ours = results(cw.Recurrent(cell, backend="c"), x, run)
        with torch.no_grad():
            quick = cw.Recurrent(cell, backend="c")(x, lengths=lengths, resets=resets)
    finally:
        torch.set_num_threads(before)
    same(ours, results(cw.Recurrent([cell], backend="eager"), x, run))
    same(flat(quick), ours[: len(flat(quick))], atol=0)


def test_second_derivatives_of_a_ragged_batch():
    layer = cw.Recurrent(cw.cells.GRU(2, 3).double(), backend="c")
    x = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    resets = torch.rand(4, 3) < 0.3
    assert torch.autograd.gradgradcheck(lambda x: layer(x, lengths=[2, 4, 1], resets=resets)[0], x)


def test_batch_first_and_no_batch():
    layer = cw.Recurrent(cw.cells.RNN(2, 3).double(), batch_first=True)
    x = torch.randn(3, 5, 2, dtype=torch.float64)
    y, h = layer(x, lengths=[2, 5, 1])
    for b, length in enumerate([2, 5, 1]):
        one, last = layer(x[b, :length])
        same([y[b, :length], h[:, b]], [one, last])
    resets = torch.tensor([False, True, False, False, True])
    same([layer(x[0], resets=resets)[0]], [torch.cat([layer(part)[0] for part in (x[0, :1], x[0, 1:4], x[0, 4:])])])


REFUSED = [
    ({"lengths": [1, 2]}, "lengths are 3 whole numbers from 1 to 4, one for each sequence; got [1, 2]; leave out"),
    (
        {"lengths": [1, 0, 2]},
        "lengths are 3 whole numbers from 1 to 4, one for each sequence; got [1, 0, 2]; leave out",
    ),
    ({"lengths": [1, 5, 2]}, "got [1, 5, 2]; leave out sequences without a step, and count every step"),
    ({"lengths": torch.ones(3)}, "one for each sequence; got [1.0, 1.0, 1.0]"),
    (
        {"resets": torch.zeros(3, 4).bool()},
        "resets are a tensor (4, 3) of bool, true where a step begins anew; got (3, 4)",
    ),
    ({"resets": torch.zeros(4, 3)}, "got (4, 3) torch.float32; write resets=(done == 1), say"),
    ({"resets": [1]}, "true where a step begins anew; got list;"),
]


@pytest.mark.parametrize(("given_", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_is_refused_says_why(given_, words):
    with pytest.raises(ShapeError) as caught:
        cw.Recurrent(cw.cells.RNN(2, 3))(torch.zeros(4, 3, 2), **given_)
    assert words in str(caught.value)


def test_refusals_around_packed_and_unbatched_sequences():
    layer = cw.Recurrent(cw.cells.RNN(2, 3))
    packed = pack_padded_sequence(torch.zeros(4, 3, 2), [4, 2, 1])
    with pytest.raises(ShapeError, match="a PackedSequence knows its lengths"):
        layer(packed, lengths=[4, 2, 1])
    with pytest.raises(ShapeError, match="lengths are those of a batch"):
        layer(torch.zeros(4, 2), lengths=[4])
    with pytest.raises(ShapeError, match="PackedSequence of rows"):
        layer(pack_padded_sequence(torch.zeros(4, 3, 5), [4, 2, 1]))
    with pytest.raises(cw.errors.BackendError, match="no resets in mid-sequence"):
        cw.Recurrent(cw.cells.RNN(2, 3), backend="torch")(torch.zeros(4, 3, 2), resets=torch.zeros(4, 3).bool())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_of_no_sequences_may_have_resets(backend):
    layer = cw.Recurrent(LIBRARY["gru"](3, 4), backend=backend)
    y, h = layer(torch.randn(5, 0, 3), resets=torch.zeros(5, 0, dtype=torch.bool))
    assert (y.shape, h.shape) == ((5, 0, 4), (1, 0, 4))
