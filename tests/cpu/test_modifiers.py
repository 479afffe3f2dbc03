"""Modifiers, alone and on top of each other: fused as step by step, and what their papers say of them."""

import pytest
import torch
from torch import nn

import cellwright as cw
from cellwright.cells import (
    GRU,
    LSTM,
    RNN,
    Cell,
    Highway,
    LearnedState,
    Normed,
    RecurrentDropout,
    Residual,
    WeightDrop,
    WeightNorm,
    Zoneout,
)
from cellwright.errors import CellError, SettingError
from cellwright.step import unroll
from tests.oracle import as_function, assert_same, drawn_inputs, tolerance, twins

T, B, I, H = 4, 3, 3, 5
MODIFIERS = {
    "zoneout": lambda cell: Zoneout(cell, 0.3),
    "zoneout of the first state": lambda cell: Zoneout(cell, {cell.state[0]: 0.5}),
    "recurrent dropout": lambda cell: RecurrentDropout(cell, 0.3),
    "recurrent dropout by step": lambda cell: RecurrentDropout(cell, 0.3, held=False),
    "layer norm": Normed,
    "rms norm": lambda cell: Normed(cell, "rms", states=cell.state),
    "weight drop": WeightDrop,
    "weight norm": WeightNorm,
    "residual": Residual,
    "highway": Highway,
    "learned state": LearnedState,
    "all": lambda cell: LearnedState(Zoneout(RecurrentDropout(Normed(WeightDrop(WeightNorm(cell)))))),
    "around a learned state": lambda cell: Residual(Zoneout(LearnedState(cell), 0.5)),
}
CASES = [(name, LSTM, True) for name in MODIFIERS]
CASES += [(name, GRU, False) for name in ("zoneout", "layer norm", "weight drop", "all")]
CASES += [("all", lambda i, h: GRU(i, h, reset_after=False), True)]
CASES += [(name, nn.LSTMCell, True) for name in ("zoneout", "weight drop")]


def drawn(cell: nn.Module) -> Cell:
    """The cell with random weights in float64."""
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.normal_(0, 0.5)
    return cell.double()


def seeded(run):
    """The same, with the same noise at every call."""

    def again(*values, **options):
        torch.manual_seed(7)
        return run(*values, **options)

    return again


@pytest.mark.parametrize(("name", "kind", "training"), CASES)
def test_a_modified_cell_fuses_and_equals_its_plain_loop(name, kind, training):
    cell = drawn(MODIFIERS[name](cw.adapt(kind(I, H)) if kind is nn.LSTMCell else kind(I, H)))
    fused, plain = twins(cell)
    fused.train(training), plain.train(training)
    values = drawn_inputs(fused, T, B, torch.float64)
    assert_same(seeded(as_function(fused)), seeded(as_function(plain)), values, atol=tolerance(torch.float64, 8 * T))


@pytest.mark.parametrize("name", ["zoneout", "recurrent dropout", "all"])
def test_ragged_batches_with_resets_fuse_too(name):
    fused, plain = twins(drawn(MODIFIERS[name](LSTM(I, H))), bidirectional=True)
    x, resets = torch.randn(T, B, I, dtype=torch.float64), torch.rand(T, B) < 0.4
    found = [seeded(layer)(x, lengths=[4, 1, 3], resets=resets) for layer in (fused, plain)]
    for one, other in zip(*((y, *state) for y, state in found), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def same(modified, plain):
    """Whether two cells give the same from the same weights, by name."""
    plain = plain.double()
    modified.double()
    state = tuple(torch.randn(B, size, dtype=torch.float64) for size in plain.state_sizes)
    x = torch.randn(B, I, dtype=torch.float64)
    for one, other in zip(modified(x, *state), plain(x, *state), strict=True):
        torch.testing.assert_close(one, other, atol=1e-14, rtol=0)


IDENTITIES = [  # a modifier that changes nothing
    ("zoneout of 0", lambda cell: Zoneout(cell, 0.0)),
    ("recurrent dropout of 0", lambda cell: RecurrentDropout(cell, 0.0)),
    ("recurrent dropout in evaluation", lambda cell: RecurrentDropout(cell, 0.5).eval()),
    ("weight drop of 0", lambda cell: WeightDrop(cell, 0.0)),
    ("weight drop in evaluation", lambda cell: WeightDrop(cell, 0.5).eval()),
    ("weight norm as it begins", WeightNorm),
    ("nothing to norm", lambda cell: Normed(cell, products=False)),
    ("a first state that is not used", LearnedState),
]


@pytest.mark.parametrize(("name", "modify"), IDENTITIES)
def test_a_modifier_that_changes_nothing_changes_nothing(name, modify):
    cell = drawn(LSTM(I, H))
    plain = LSTM(I, H)
    plain.load_state_dict(cell.state_dict())
    same(modify(cell), plain)


def test_zoneout_keeps_the_old_value_or_takes_the_new_one_and_in_evaluation_mixes_them():
    cell = drawn(Zoneout(LSTM(I, 400), {"c": 0.25}))
    x, h, c = (torch.randn(B, size, dtype=torch.float64) for size in (I, 400, 400))
    new_h, new_c = cell.cell(x, h, c)
    zoned_h, zoned_c = cell(x, h, c)
    kept = zoned_c == c
    assert torch.equal(zoned_h, new_h)
    assert torch.equal(torch.where(kept, c, new_c), zoned_c)
    assert 0.2 < kept.double().mean() < 0.3  # 1200 draws at 0.25: four standard deviations
    torch.testing.assert_close(cell.eval()(x, h, c)[1], 0.25 * c + 0.75 * new_c)


def test_held_masks_stay_through_time_and_others_do_not():
    x = torch.zeros(50, 2, I)
    for held in (True, False):
        masks = RecurrentDropout(RNN(I, 7), 0.5, held=held).feed(cw.cells.Feed(x)).x[..., I:]  # (50, 2, 7)
        assert bool((masks == masks[0]).all()) is held
        assert set(masks.unique().tolist()) == {0.0, 2.0}
        assert not torch.equal(masks[:, 0], masks[:, 1])


def test_every_call_drops_other_weights_and_every_step_of_it_the_same():
    layer = cw.Recurrent(WeightDrop(RNN(I, H), 0.5))
    x = torch.randn(1, 1, I).expand(6, 1, I)
    one, other = layer(x)[0], layer(x)[0]
    assert not torch.equal(one, other)
    cell = layer.first_cell
    weight = cell.cell.W_hh.detach()
    assert 0 < (weight == 0).sum() < weight.numel()
    plain = RNN(I, H)
    plain.load_state_dict({"W_xh": cell.cell.W_xh, "W_hh": weight, "b_h": cell.cell.b_h})
    torch.testing.assert_close(other, unroll(plain, x, plain.initial_state(1))[0])


def test_two_calls_before_a_backward_keep_their_own_masks():
    layer = cw.Recurrent(drawn(WeightDrop(RNN(I, H), 0.5)))
    x = torch.randn(T, B, I, dtype=torch.float64)
    torch.manual_seed(3)
    first, second = layer(x)[0].sum(), layer(x)[0].sum()
    together = torch.autograd.grad(first + second, list(layer.parameters()))
    torch.manual_seed(3)
    apart = [torch.autograd.grad(layer(x)[0].sum(), list(layer.parameters())) for _ in range(2)]
    for whole, *parts in zip(together, *apart, strict=True):
        torch.testing.assert_close(whole, sum(parts))


def test_a_layer_norm_is_the_one_of_the_paper():
    cell = drawn(Normed(RNN(I, H)))
    x, h = torch.randn(B, I, dtype=torch.float64), torch.randn(B, H, dtype=torch.float64)

    def norm(a, gain):
        return gain * (a - a.mean(1, keepdim=True)) / (a.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()

    inner = cell.cell
    wanted = torch.tanh(norm(x @ inner.W_xh, cell.gain_0) + norm(h @ inner.W_hh, cell.gain_1) + inner.b_h)
    torch.testing.assert_close(cell(x, h), wanted, atol=1e-14, rtol=0)


def test_an_rms_norm_of_a_state_is_the_one_of_the_paper():
    cell = drawn(Normed(RNN(I, H), "rms", products=False, states=["h"]))
    x, h = torch.randn(B, I, dtype=torch.float64), torch.randn(B, H, dtype=torch.float64)
    new = cell.cell(x, h)
    wanted = new / ((new**2).mean(1, keepdim=True) + 1e-5).sqrt() * cell.gain_h + cell.shift_h
    torch.testing.assert_close(cell(x, h), wanted, atol=1e-14, rtol=0)


def test_a_bias_inside_linear_is_added_after_the_norm():
    modified = Normed(Linear(I, H))
    x, h = torch.zeros(B, I), torch.zeros(B, H)  # all products are 0, and stay so
    torch.testing.assert_close(modified(x, h), modified.cell(x, h))
    assert modified(x, h).abs().min() > 0


@pytest.mark.parametrize("backend", ["c", "eager"])
def test_a_sequence_begins_with_the_learned_state_and_begins_anew_with_it(backend):
    layer = cw.Recurrent(drawn(LearnedState(GRU(I, H))), backend=backend)
    x = torch.randn(5, 1, I, dtype=torch.float64)
    resets = torch.tensor([[False], [False], [True], [False], [False]])
    y, _ = layer(x, resets=resets)
    parts = torch.cat([layer(x[:2])[0], layer(x[2:])[0]])
    torch.testing.assert_close(y, parts, atol=1e-13, rtol=0)
    grads = [torch.autograd.grad(one.sum(), layer.first_cell.first_h)[0] for one in (y, parts)]
    torch.testing.assert_close(*grads, atol=1e-13, rtol=0)
    torch.testing.assert_close(layer.stream()(x[0]), y[0], atol=1e-13, rtol=0)


def test_a_stream_runs_as_in_evaluation():
    layer = cw.Recurrent(drawn(Zoneout(RecurrentDropout(LSTM(I, H)), 0.3)), num_layers=2)
    x = torch.randn(T, 1, I, dtype=torch.float64)
    stream = layer.stream()
    found = torch.stack([stream(x_t) for x_t in x])
    assert layer.training
    torch.testing.assert_close(found, layer.eval()(x)[0], atol=1e-13, rtol=0)


def test_connections_go_past_the_cell():
    x, h = torch.randn(B, H), torch.randn(B, H)
    residual = Residual(GRU(H, H))
    assert torch.equal(residual(x, h)[0], residual.cell(x, h) + x)
    highway = Highway(GRU(H, H))
    y, new = highway(x, h)
    t = torch.sigmoid(x @ highway.W_t + highway.b_t)
    torch.testing.assert_close(y, t * new + (1 - t) * x)
    assert (highway.b_t == -1).all()
    layer = cw.Recurrent(Residual(LSTM(I, H)), num_layers=3, bidirectional=True)
    assert [cell.project for cell in layer.cells] == [True] * 6  # 2 H columns come, H go
    assert layer(torch.randn(T, B, I))[0].shape == (T, B, 2 * H)


def test_layers_above_are_modified_alike():
    layer = cw.Recurrent(Zoneout(WeightNorm(LSTM(I, H)), {"c": 0.5}), num_layers=2)
    upper = layer.cells[1]
    assert isinstance(upper, Zoneout)
    assert upper.shares == (0.0, 0.5)
    assert isinstance(upper.cell, WeightNorm)
    assert upper.input_size == H
    assert len(list(upper.parameters())) == len(list(layer.cells[0].parameters()))


def test_under_torch_compile_a_noisy_cell_is_one_graph():
    layer = cw.Recurrent(Zoneout(LSTM(I, H), 0.5)).eval()
    x = torch.randn(T, B, I)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x)[0], layer(x)[0])


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Zoneout(3), CellError, "Zoneout changes a cell; got 3; write Zoneout(cw.cells.GRU(28, 16))"),
        (
            lambda: Zoneout(LSTM(I, H), {"m": 0.1}),
            SettingError,
            "shares are by state: h, c; got 'm'; name those states",
        ),
        (
            lambda: Zoneout(LSTM(I, H), 1.0),
            SettingError,
            "share is a share of at least 0 and below 1; got 1.0; write 0.1, say",
        ),
        (
            lambda: WeightDrop(LSTM(I, H), weights=["W_hq"]),
            CellError,
            "recurrent weights are found by their role, or by their names; got weights=['W_hq'] for a cell with ",
        ),
        (lambda: Normed(LSTM(I, H), "batch"), SettingError, "a norm is layer or rms; got 'batch'; write one of"),
        (lambda: Normed(LSTM(I, H), states=["m"]), SettingError, "states to norm are some of h, c; got ['m'];"),
        (lambda: Normed(Weightless(I, I)), CellError, "what is normed are products of rows and a matrix"),
        (lambda: Residual(LearnedState(LearnedState(GRU(I, H)))), CellError, "a first state is learned once; got "),
    ],
)
def test_what_is_refused_says_what_to_write(make, error, words):
    with pytest.raises(error) as caught:
        make()
    assert words in str(caught.value)


class Linear(Cell):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.linear = nn.Linear(input_size, hidden_size)

    def step(self, x, h):
        h = torch.tanh(self.linear(x) + h)
        return h


class Weightless(Cell):
    def step(self, x, h):
        h = torch.tanh(x + h)
        return h


def test_what_a_modified_cell_computes_is_recorded_by_name():
    layer = cw.Recurrent(drawn(Zoneout(LSTM(I, H), 0.5))).eval()
    x = torch.randn(T, B, I, dtype=torch.float64)
    seen = cw.record(layer, x)
    assert {"i", "f", "o", "g", "h", "c"} <= set(seen.layers[0].directions[0])
    torch.testing.assert_close(seen["h"], layer(x)[0], atol=1e-13, rtol=0)
