"""The fused loops equal the equations step by step: outputs, states, all gradients, at any size and on any threads."""

from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cellwright as cw
from cellwright.cells import GRU, LIBRARY, LSTM, RNN
from cellwright.kernels.c import buffers, run
from cellwright.kernels.c.buffers import FAR, SHARED, THIRDS_ROWS, THIRDS_WASTE, columns_shared, in_thirds
from tests.oracle import CORE, as_function, assert_alike, closeness, drawn_inputs, flat, results_and_gradients, twins

SIZES = [(1, 1), (2, 7), (3, 65)]  # inputs, units: one, less than a vector, one more than whole vectors


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check(cell, steps, batch, dtype=torch.float64, **options):
    fused, plain = (layer.to(dtype) for layer in twins(cell, **options))
    inputs = drawn_inputs(fused, steps, batch, dtype)
    assert_alike(as_function(fused), as_function(plain), inputs, closeness(dtype, steps, cell.hidden_size))


@pytest.mark.parametrize(("inputs", "hidden"), SIZES)
@pytest.mark.parametrize("name", CORE)
def test_results_and_all_gradients_equal_the_reference(name, inputs, hidden):
    for steps, batch in [(1, 1), (1, 4), (9, 1), (5, 13)]:
        check(LIBRARY[name](inputs, hidden), steps, batch)


@pytest.mark.parametrize("name", CORE)
def test_float32_is_as_close_as_rounding_allows(name):
    check(LIBRARY[name](5, 33), 30, 7, torch.float32)


@pytest.mark.parametrize("name", CORE)
def test_long_sequences_stay_exact(name):
    check(LIBRARY[name](2, 7), 300, 3)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_stacked_and_bidirectional_layers(name, bidirectional, batch_first):
    check(LIBRARY[name](2, 7), 6, 3, num_layers=2, bidirectional=bidirectional, batch_first=batch_first)


_KEPT = {}  # one cell of each size for all drawn shapes: what is compiled once serves every T and B


@settings(deadline=None, max_examples=40)
@given(
    steps=st.integers(1, 31),
    batch=st.integers(1, 29),
    name=st.sampled_from(["gru-reset-before", "lstm"]),
    size=st.sampled_from([(3, 5), (2, 7)]),
    team=st.integers(1, 2),
)
def test_any_number_of_steps_and_rows(steps, batch, name, size, team):
    cell = _KEPT.setdefault((name, size), LIBRARY[name](*size).double())
    with threads(team):
        check(cell, steps, batch)


@settings(deadline=None, max_examples=4)
@given(inputs=st.sampled_from([1, 4, 11, 17]), hidden=st.sampled_from([2, 3, 8, 13, 16, 19, 31, 64]))
def test_any_number_of_columns(inputs, hidden):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELLWRIGHT_CFLAGS", "-O1")  # quick to compile
        check(GRU(inputs, hidden), 3, 5)


@pytest.mark.parametrize("cell", [LSTM(3, 64), RNN(800, 8)], ids=["rows of 256 columns, kept apart", "a deep product"])
def test_sizes_that_are_laid_out_in_another_way(cell):
    check(cell, 3, 29)


@pytest.mark.parametrize("batch", [1, 13, 40, 150])  # tiles that fetch what comes next: none, some, all
@pytest.mark.parametrize(
    "cell",
    [RNN(520, 521), LIBRARY["lstm-layernorm"](9, 261), GRU(330, 241)],  # the first two share columns up to 32 rows
    ids=["what x brings is made before", "sums of rows", "three products"],
)
def test_weights_that_come_from_afar(cell, batch):
    layer = cw.Recurrent(cell.double(), backend="c")
    assert next(layer.choices()).entry.fused.weights.each_step > FAR
    check(cell, 5, batch)


@pytest.mark.parametrize("batch", [1, 13, 40])
def test_what_is_made_before_for_a_window_of_steps(batch):
    fused, plain = twins(RNN(520, 521).double())
    x = torch.randn(2 * run.Sizes(0, batch, 2, False, (True, True)).window + 1, batch, 520, dtype=torch.float64)
    with torch.no_grad(), threads(2):
        torch.testing.assert_close(fused(x)[0], plain(x)[0], atol=1e-12, rtol=1e-12)


def test_threads_share_columns_where_rows_are_few_for_their_weights(monkeypatch):
    monkeypatch.setattr(buffers, "SHARED", SHARED)
    most = [
        max(batch for batch in range(200) if not batch or columns_shared(batch, 2, weights))
        for least, _ in SHARED
        for weights in (least, least + 1)
    ]
    assert most == [6, 24, 1, 6, 0, 1]
    assert not columns_shared(1, 1, 1 << 30)


def test_in_thirds_they_share_them_sooner_forward_than_backward():
    lstm, large = 6 * 284 * 1024, 6 * 640 * 2048  # bytes at (I, H) = (28, 256) and (128, 512)
    ways = [
        [columns_shared(batch, 2, weights, thirds=True, back=back) for back in (False, True)]
        for batch, weights in ((32, lstm), (64, large), (32, large), (16, lstm))
    ]
    assert ways == [[True, False], [True, False], [True, True], [True, True]]


def test_products_are_in_thirds_where_rows_and_weights_are_many(monkeypatch):
    monkeypatch.setattr(buffers, "THIRDS_ROWS", THIRDS_ROWS)
    monkeypatch.setattr(buffers, "THIRDS_WASTE", THIRDS_WASTE)

    def found(name, inputs, batches=(8, 20, 32)):
        cell = LIBRARY[name](inputs, 256)
        code = next(cw.Recurrent(cell, backend="c").choices()).entry.fused.code
        return [in_thirds(batch, code) for batch in batches]

    assert found("lstm", 28) == [False, True, True]
    assert found("sru", 28) == [False, False, False]  # no product in its loop: all weights count
    assert found("sru", 128) == [False, False, True]
    assert found("sru", 512) == [False, True, True]


@pytest.mark.parametrize("batch", [1, 2, 5, 11])
@pytest.mark.parametrize("name", [*CORE, "lstm-layernorm"])
def test_few_rows_each_with_one_thread(name, batch, monkeypatch):
    monkeypatch.setattr(buffers, "SHARED", SHARED)
    with threads(2):
        check(LIBRARY[name](3, 37), 4, batch)


def test_rows_begin_at_lines_of_the_cache_and_not_a_power_of_two_apart():
    widths = [
        next(cw.Recurrent(LSTM(3, H)).choices()).entry.fused.program.buffers["d"].width for H in (30, 41, 48, 63, 64)
    ]
    assert widths == [4 * 30, 176, 4 * 48, 256 + 16, 256 + 16]


def test_values_of_one_column_lie_behind_all_others():
    program = next(cw.Recurrent(LIBRARY["lstm-layernorm"](28, 256)).choices()).entry.fused.program
    kept = [
        (home.column, program.graph.atoms[a].width)
        for a, homes in program.homes.items()
        for home in homes
        if home.buffer == "kept"
    ]
    assert sorted(column for column, width in kept if width > 1) == [256 * place for place in range(5)]
    assert any(width == 1 for _, width in kept)


@pytest.mark.parametrize("name", CORE)
def test_states_that_are_not_given_are_zeros(name):
    fused, plain = twins(LIBRARY[name](2, 7).double())
    x = torch.randn(4, 3, 2, dtype=torch.float64)
    for one, other in zip(flat(fused(x)), flat(plain(x)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-13, rtol=0)


def test_a_sequence_without_a_batch():
    fused, plain = twins(LSTM(2, 7).double())
    x = torch.randn(4, 2, dtype=torch.float64)
    assert [r.shape for r in flat(fused(x))] == [(4, 7), (1, 7), (1, 7)]
    for one, other in zip(flat(fused(x)), flat(plain(x)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-13, rtol=0)


@pytest.mark.parametrize("needs_x", [False, True])
@pytest.mark.parametrize("name", CORE)
def test_frozen_weights_get_no_gradient_and_change_no_other(name, needs_x):
    fused, plain = twins(LIBRARY[name](2, 7).double())
    parameters = dict(fused.named_parameters())
    frozen = list(parameters)[::2]
    for one in frozen:
        parameters[one].requires_grad_(False)
    x = torch.randn(5, 3, 2, dtype=torch.float64, requires_grad=needs_x)
    found = []
    for layer in (fused, plain):
        y, last = layer(x)
        (y.square().sum() + sum((k + 2) * s.sum() for k, s in enumerate(flat(last)))).backward()
        grads = {n: p.grad for n, p in layer.named_parameters()} | {"x": x.grad}
        found.append({n: g for n, g in grads.items() if g is not None})
        layer.zero_grad()
        x.grad = None
    assert (
        found[0].keys() == found[1].keys() == {n for n in parameters if n not in frozen} | ({"x"} if needs_x else set())
    )
    for key, one in found[0].items():
        torch.testing.assert_close(one, found[1][key], atol=1e-12, rtol=1e-12)


@pytest.fixture
def splits(monkeypatch):
    """Notes the number of threads and the split of every launch."""
    noted = []
    launch = run.launch

    def watch(function, argument, team):
        noted.append(team)
        return launch(function, argument, team)

    monkeypatch.setattr(run, "launch", watch)
    return noted


@pytest.mark.parametrize("batch", [5, 40], ids=["columns", "rows"])  # columns are split below 6 rows a thread
@pytest.mark.parametrize("name", CORE)
def test_two_threads_compute_what_one_does(name, batch, splits):
    layer = cw.Recurrent(LIBRARY[name](3, 33).double(), backend="c")
    inputs = drawn_inputs(layer, 7, batch, torch.float64)
    found = []
    for count in (1, 2):
        with threads(count):
            found.append(results_and_gradients(as_function(layer), inputs))
    assert set(splits) == {1, 2}
    for one, other in zip(flat(found[0]), flat(found[1]), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("batch", [5, 13, 40])
@pytest.mark.parametrize("name", [*CORE, "lstm-layernorm"])
def test_fewer_threads_may_come_than_were_asked_for(name, batch, monkeypatch):
    """As where OMP_THREAD_LIMIT or OMP_DYNAMIC say so, in a forked process, and inside a parallel region."""
    launch = run.launch
    monkeypatch.setattr(run, "launch", lambda function, argument, team: launch(function, argument, 1))
    with threads(2):
        check(LIBRARY[name](3, 37), 4, batch)
        check(LIBRARY[name](3, 37), 4, batch, torch.float32)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("batch", [5, 40], ids=["columns", "rows"])
@pytest.mark.parametrize("cell", [LSTM, GRU])
def test_two_runs_give_the_same_bits(cell, batch, count):
    layer = cw.Recurrent(cell(3, 33), backend="c")
    inputs = drawn_inputs(layer, 40, batch, torch.float32)
    with threads(count):
        one, other = (flat(results_and_gradients(as_function(layer), inputs)) for _ in range(2))
    assert all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


@pytest.mark.parametrize("lengths", [None, [5, 2, 3]], ids=["even", "ragged"])
@pytest.mark.parametrize("name", CORE)
def test_no_state_is_a_state_of_zeros(name, lengths):
    layer = cw.Recurrent(LIBRARY[name](3, 5), backend="c")
    x = torch.randn(5, 3, 3)
    zeros = tuple(torch.zeros(1, 3, 5) for _ in layer.first_cell.state)
    found = []
    for state in (None, zeros if len(zeros) > 1 else zeros[0]):
        y, last = layer(x, state, lengths=lengths)
        found.append([y, *flat(last), *torch.autograd.grad(y.square().sum(), list(layer.parameters()))])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


class FromOnes(RNN):
    def initial_state(self, batch_size, like=None):
        return tuple(state + 1 for state in super().initial_state(batch_size, like))


def test_a_cell_may_begin_otherwise():
    fused, plain = twins(FromOnes(3, 5))
    x = torch.randn(4, 2, 3)
    torch.testing.assert_close(fused(x)[0], plain(x)[0])
    assert not torch.allclose(fused(x)[0], fused(x, torch.zeros(1, 2, 5))[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["x", "h"])
@pytest.mark.parametrize("name", CORE)
def test_nan_and_infinity_go_where_the_reference_lets_them(name, where, value):
    fused, plain = twins(LIBRARY[name](2, 7).double())
    x, *states = drawn_inputs(fused, 5, 3, torch.float64)[: 1 + len(fused.first_cell.state)]
    (x[2] if where == "x" else states[0][0])[1, 1] = value
    state = tuple(states) if len(states) > 1 else states[0]
    for one, other in zip(flat(fused(x, state)), flat(plain(x, state)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0, equal_nan=True)
        assert torch.equal(one.isnan(), other.isnan())


def test_the_outputs_are_the_users_own():
    """A second run, and what the user writes into the first one's results, change nothing of each other."""
    layer = cw.Recurrent(RNN(2, 7), backend="c")
    x = torch.randn(4, 3, 2)
    with torch.no_grad():
        y, last = layer(x)
        kept = y.clone(), last.clone()
        layer(2 * x)
        assert torch.equal(y, kept[0])
        y.zero_()
        assert torch.equal(last, kept[1])
        assert torch.equal(layer(x)[0], kept[0])


def test_x_and_states_of_any_strides():
    fused, plain = twins(LSTM(2, 7).double())
    x = torch.randn(3, 2, 5, dtype=torch.float64).permute(2, 0, 1)[:, :, :]
    state = tuple(torch.randn(7, 3, 1, dtype=torch.float64).permute(2, 1, 0) for _ in range(2))
    narrow = torch.randn(1, 3, 1, dtype=torch.float64).expand(1, 3, 7)
    for given_state in (state, (narrow, state[1])):
        for one, other in zip(flat(fused(x, given_state)), flat(plain(x, given_state)), strict=True):
            torch.testing.assert_close(one, other, atol=1e-13, rtol=0)
