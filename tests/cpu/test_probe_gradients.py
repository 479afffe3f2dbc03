"""gradient_flow: Jacobians are autograd's of the plain loop, the parts of one sum to the whole."""

import math

import pytest
import torch
from torch.autograd.functional import jacobian

import cellwright as cw
from cellwright.cells import GRU, LSTM, RNN
from cellwright.errors import ShapeError
from cellwright.probe import gradient_flow
from cellwright.probe.gradients import pull_back, states_before
from cellwright.probe.norms import SpectralNorm
from cellwright.probe.observe import as_layer, observe
from cellwright.probe.paths import step_paths
from cellwright.step import unroll

T, B, I, H = 7, 2, 3, 5
EXACT = 1e-10
CELLS = {
    "rnn": lambda: RNN(I, H),
    "lstm": lambda: LSTM(I, H),
    "gru, reset before": lambda: GRU(I, H, reset_after=False),
    "gru of torch.nn": lambda: cw.adapt(torch.nn.GRUCell(I, H)),
}


def drawn(make):
    """A layer in float64 that runs step by step, x, and states to begin with."""
    cell = make().double()
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(T, B, I, dtype=torch.float64)
    return cw.Recurrent(cell, backend="eager"), x, tuple(torch.randn(1, B, H, dtype=torch.float64) for _ in cell.state)


def by_autograd(cell, x, first, b):
    """d s_T / d s_0 of sequence b, all states side by side (S, S)."""

    def last(*state):
        return torch.cat(unroll(cell, x[:, b : b + 1], state)[1], 1)[0]

    return torch.cat([block[:, 0] for block in jacobian(last, tuple(s[:, b] for s in first))], 1)


@pytest.mark.parametrize("name", CELLS)
def test_norms_are_those_of_autograds_jacobian(name):
    layer, x, first = drawn(CELLS[name])
    cell = layer.first_cell
    flow = gradient_flow(layer, x, first if len(first) > 1 else first[0])[0]
    for b in range(B):
        whole = by_autograd(cell, x, first, b)
        blocks = dict(zip(cell.state, range(0, len(whole), H), strict=True)) if len(first) > 1 else {}
        for state, at in blocks.items():
            norm = torch.linalg.matrix_norm(whole[at : at + H, at : at + H], ord=2)
            assert abs(flow.norms(state)[T, b] - norm) < EXACT
        assert abs(flow.norms()[T, b] - torch.linalg.matrix_norm(whole, ord=2)) < EXACT
        assert flow.norms()[0, b] == 1


def test_all_exponents_together_are_the_shrinking_of_volumes():
    layer, x, first = drawn(CELLS["rnn"])
    h = layer(x, first[0])[0]  # (T, B, H)
    volumes = (1 - h**2).log().sum(2) + torch.linalg.slogdet(layer.first_cell.W_hh).logabsdet  # (T, B)
    exponents = gradient_flow(layer, x, first[0])[0].exponents
    torch.testing.assert_close(exponents.sum(0), volumes.mean(0).detach(), atol=EXACT, rtol=0)


def test_a_lag_is_the_whole_of_a_shorter_sequence():
    layer, x, first = drawn(CELLS["lstm"])
    _, (h, c) = layer(x[:4], first)
    late = gradient_flow(layer, x[4:], (h.detach(), c.detach()))[0]
    torch.testing.assert_close(gradient_flow(layer, x, first)[0].norms("c")[3], late.norms("c")[3], atol=EXACT, rtol=0)


def test_rows_pulled_back_are_products_with_the_jacobian():
    layer, x, first = drawn(CELLS["lstm"])
    seen = observe(layer, x[:1], first)[0][0]
    rows = torch.randn(B, 4, 2 * H, dtype=torch.float64)
    pulled = pull_back(seen.part, x[0], tuple(s[0] for s in states_before(seen)), rows)
    for b in range(B):
        torch.testing.assert_close(
            pulled[b], rows[b] @ by_autograd(layer.first_cell, x[:1], first, b), atol=EXACT, rtol=0
        )


def total_derivative(layer, x, before, state, t, b):
    """d s_t / d s_{t-1} by autograd, where the other states that step t-1 makes of s_{t-1} follow it."""
    cell = layer.first_cell
    rows = []
    for column in range(H):
        first = tuple(s[t - 1, b : b + 1].clone().requires_grad_() for s in before)
        middle = cell.split_output(cell(x[t - 1, b : b + 1], *first))[1]
        last = cell.split_output(cell(x[t, b : b + 1], *middle))[1]
        place = cell.state.index(state)
        rows.append(torch.autograd.grad(last[place][0, column], middle[place])[0][0])
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("name", "state", "expected"),
    [
        ("rnn", "h", {"direct"}),
        ("lstm", "c", {"direct", "f", "i", "g"}),
        ("lstm", "h", {"o", "c"}),
        ("gru, reset before", "h", {"direct", "z", "n"}),
    ],
)
def test_paths_have_the_cells_names_and_sum_to_the_whole(name, state, expected):
    layer, x, first = drawn(CELLS[name])
    seen = observe(layer, x, first if len(first) > 1 else first[0])[0][0]
    before = states_before(seen)
    paths = step_paths(seen.part, x, before, 3, state)
    assert set(paths) == expected
    for b in range(B):
        whole = total_derivative(layer, x, before, state, 3, b)
        torch.testing.assert_close(sum(path[b] for path in paths.values()), whole, atol=EXACT, rtol=0)
    shares = gradient_flow(layer, x)[0].paths[state]
    assert abs(sum(shares.values()) - 1) < EXACT


def test_the_terms_of_an_lstms_cell_are_those_one_derives_by_hand():
    layer, x, first = drawn(CELLS["lstm"])
    cell, values = layer.first_cell, observe(layer, x, first)[0][0]
    paths = step_paths(values.part, x, states_before(values), 3, "c")
    i, f, g, o, c = (values.named[name] for name in "ifgoc")
    shown = o[2] * (1 - c[2].tanh() ** 2)  # d h_2 / d c_2, column by column

    def through(gate, slope, factor):  # diag(factor * slope) W^T diag(shown), of every sequence
        return (factor * slope).unsqueeze(2) * getattr(cell, f"W_h{gate}").T * shown.unsqueeze(1)

    torch.testing.assert_close(paths["direct"], torch.diag_embed(f[3]), atol=EXACT, rtol=0)
    torch.testing.assert_close(paths["f"], through("f", f[3] * (1 - f[3]), c[2]), atol=EXACT, rtol=0)
    torch.testing.assert_close(paths["i"], through("i", i[3] * (1 - i[3]), g[3]), atol=EXACT, rtol=0)
    torch.testing.assert_close(paths["g"], through("g", 1 - g[3] ** 2, i[3]), atol=EXACT, rtol=0)


@pytest.mark.parametrize("make", [lambda: cw.Recurrent(RNN(I, 40)), lambda: cw.RNN(I, 40, nonlinearity="relu")])
def test_no_norm_exceeds_the_bound_of_a_simple_network(make):
    flow = gradient_flow(make(), torch.randn(20, B, I), dtype=torch.float64)[0]
    weight = next(p for name, p in make().named_parameters() if "hh" in name)
    assert weight.shape == (40, 40)
    assert all((flow.norms()[k] <= flow.bound(k) * (1 + EXACT)).all() for k in range(21))
    assert gradient_flow(GRU(I, H), torch.randn(4, B, I))[0].log_bound is None


def test_the_bound_is_the_spectral_norm_of_the_recurrent_weights():
    cell = RNN(I, H)
    bound = torch.linalg.matrix_norm(cell.W_hh.double(), ord=2).item()
    assert gradient_flow(cell, torch.randn(4, B, I))[0].bound(2) == pytest.approx(bound**2)


def test_iterated_norms_are_exact_ones():
    layer, x = cw.LSTM(I, 40, dtype=torch.float64), torch.randn(12, B, I, dtype=torch.float64)
    exact, found = (gradient_flow(layer, x, exact=way)[0] for way in (True, False))
    for name in ("h", "c", "all states"):
        torch.testing.assert_close(found.norms(name), exact.norms(name), atol=0, rtol=1e-4)
    assert SpectralNorm(exact=False)(torch.zeros(2, 30, 30)).tolist() == [0, 0]


def test_gradients_that_vanish_beyond_numbers_have_logarithms():
    cell = RNN(I, H)
    torch.nn.init.normal_(cell.W_hh, std=1e-4)
    flow = gradient_flow(cell, torch.randn(60, B, I))[0]
    assert torch.isfinite(flow.log_norms["all states"]).all()
    assert flow.log_norms["all states"][60].max() < math.log(1e-150)


def test_each_layer_and_direction_has_its_own_and_stays_as_it_is():
    layer, x = cw.Recurrent(GRU(I, H), 2, bidirectional=True), torch.randn(T, B, I)
    before = [parameter.clone() for parameter in layer.parameters()]
    flow = gradient_flow(layer, x, dtype=torch.float64)
    assert [one.where for one in flow.cells] == [f"layer {k}, {d}" for k in (0, 1) for d in ("forward", "backward")]
    assert all(torch.equal(one, other) for one, other in zip(before, layer.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in layer.parameters())
    alone = gradient_flow(layer.cells[1], x.flip(0), dtype=torch.float64)[0]
    torch.testing.assert_close(flow[1].norms(), alone.norms())


def test_it_prints_as_a_table():
    lines = str(gradient_flow(LSTM(I, H), torch.randn(T, B, I))).splitlines()
    assert lines[0] == "layer 0, forward: LSTM(3, 5)"
    assert lines[1].split() == ["norm", "at", "lag", "1", "2", "5", "7"]
    assert lines[-1].startswith("  d c_t / d c_(t-1) goes through: ")


def test_ragged_sequences_are_refused_in_words():
    packed = torch.nn.utils.rnn.pack_sequence([torch.randn(3, I), torch.randn(2, I)])
    with pytest.raises(ShapeError, match="all as long; got PackedSequence; pass x"):
        gradient_flow(as_layer(RNN(I, H)), packed)
