"""record: its values satisfy the cells' equations, and no bit of what a layer returns is another for it."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import cellwright as cw
from cellwright.cells import GRU, LSTM, RNN
from cellwright.errors import CellError, SettingError
from cellwright.probe import record
from cellwright.probe.twin import twin
from tests.oracle import tolerance

T, B, I, H = 6, 3, 4, 5
LENGTHS = [3, 6, 2]


def before(values, first=None):
    """A state before every step."""
    return torch.cat([torch.zeros_like(values[:1]) if first is None else first, values[:-1]])


def lstm_gaps(values, x, weights):
    """How far recorded values are from the LSTM's equations, written here once more; weights (i, f, g, o)."""
    h, c = before(values["h"]), before(values["c"])
    for name, (W, U, b) in weights.items():
        squash = torch.tanh if name == "g" else torch.sigmoid
        yield values[name] - squash(x @ W + h @ U + b)
    yield values["c"] - (values["f"] * c + values["i"] * values["g"])
    yield values["h"] - values["o"] * values["c"].tanh()


def assert_small(gaps):
    for gap in gaps:
        assert gap.abs().max() < tolerance(gap.dtype)


@pytest.mark.parametrize("backend", ["c", "eager", "torch"])
def test_values_of_an_lstm_satisfy_its_equations(backend):
    layer, x = cw.Recurrent(LSTM(I, H), backend=backend), torch.randn(T, B, I)
    cell = layer.first_cell
    weights = {g: tuple(getattr(cell, f"{kind}{g}") for kind in ("W_x", "W_h", "b_")) for g in "ifgo"}
    assert_small(lstm_gaps(record(layer, x), x, weights))


@pytest.mark.parametrize("make", [cw.LSTM, nn.LSTMCell], ids=["cw.LSTM", "nn.LSTMCell"])
def test_gates_on_stacked_weights_have_their_names(make):
    layer, x = make(I, H), torch.randn(T, B, I)
    given = [value for name, value in layer.named_parameters()]
    (W, U, a, b) = (value.chunk(4) for value in given)
    weights = {g: (W[k].T, U[k].T, a[k] + b[k]) for k, g in enumerate("ifgo")}
    assert_small(lstm_gaps(record(layer, x), x, weights))


def test_values_of_a_gru_satisfy_its_equations():
    cell, x = GRU(I, H, reset_after=False).double(), torch.randn(T, B, I, dtype=torch.float64)
    values, first = record(cw.Recurrent(cell), x, torch.ones(1, B, H, dtype=torch.float64)), torch.ones(1, B, H)
    h = before(values["h"], first)
    r, z = (torch.sigmoid(x @ cell.W_xr + h @ cell.W_hr + cell.b_r), values["z"])
    n = torch.tanh(x @ cell.W_xn + (r * h) @ cell.W_hn + cell.b_n)
    assert_small([values["r"] - r, values["n"] - n, values["h"] - (z * h + (1 - z) * n)])


LAYERS = {
    "rnn": lambda backend: cw.Recurrent(RNN(I, H), backend=backend),
    "two layers, both ways": lambda backend: cw.Recurrent(GRU(I, H), 2, bidirectional=True, backend=backend),
    "in training, with dropout": lambda backend: cw.Recurrent(LSTM(I, H), 2, dropout=0.5, backend=backend),
    "a cell of torch.nn": lambda backend: cw.Recurrent(nn.LSTMCell(I, H), backend=backend),
    "cells of torch.nn, with dropout": lambda backend: cw.Recurrent(nn.GRUCell(I, H), 2, dropout=0.5, backend=backend),
    "cw.LSTM": lambda backend: cw.LSTM(I, H, 2, dropout=0.5, bidirectional=True, backend=backend),
    "cw.GRU": lambda backend: cw.GRU(I, H, reset_after=False, backend=backend),
    "projected": lambda backend: cw.LSTM(I, H, proj_size=2, backend=backend),
}


@pytest.mark.parametrize("backend", ["c", "eager"])
@pytest.mark.parametrize("name", LAYERS)
def test_recording_changes_no_bit_of_the_output(name, backend):
    layer, x = LAYERS[name](backend), torch.randn(T, B, I)
    torch.manual_seed(1)
    y, state = layer(x)
    torch.manual_seed(1)
    recording = record(layer, x)
    dice = torch.get_rng_state()
    assert torch.equal(recording.output[0], y)
    for one, other in zip(recording.output[1], state, strict=True):
        assert torch.equal(one, other)
    torch.manual_seed(1)
    layer(x)
    assert torch.equal(torch.get_rng_state(), dice)
    shown = torch.cat([values["h"] for values in recording.layers[-1].directions], -1)
    if "of torch.nn" not in name:  # whose gates are those of an equal cell of ours
        assert torch.equal(shown, y)
    torch.testing.assert_close(shown, y)


@pytest.mark.parametrize("make", [lambda: cw.Recurrent(LSTM(I, H), 2, bidirectional=True), lambda: cw.LSTM(I, H, 2)])
def test_ragged_sequences_are_those_that_one_has_alone(make):
    layer, x = make(), torch.randn(T, B, I)
    packed = pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False)
    for recording in (record(layer, x, lengths=LENGTHS), record(layer, packed)):
        assert recording.lengths.tolist() == LENGTHS
        for place, length in enumerate(LENGTHS):
            alone = record(layer, x[:length, place])
            for (_, some), (_, same) in zip(recording.cells(), alone.cells(), strict=True):
                for name in same:
                    torch.testing.assert_close(some[name][:length, place], same[name][:, 0])
                    assert not some[name][length:, place].any()


def test_a_batch_may_come_first_and_sequences_begin_anew():
    layer, x = cw.Recurrent(GRU(I, H), batch_first=True), torch.randn(B, T, I)
    resets = torch.zeros(B, T, dtype=torch.bool)
    resets[1, 4] = True
    recording = record(layer, x, resets=resets)
    torch.testing.assert_close(recording["z"][4:, 1], record(layer, x[1:2, 4:])["z"][:, 0])
    assert torch.equal(recording["h"].transpose(0, 1), recording.output[0])


class Odd(cw.Cell):
    """Names of all kinds: a row of numbers, a yes or no, a view, an output that is no state, a state without a name."""

    def __init__(self):
        super().__init__(I, H)
        self.W = nn.Parameter(torch.randn(I, H))

    @property
    def output_size(self):
        return 2

    def step(self, x, h):
        weight = self.W * 2
        total = x.sum(1)
        above = h > 0
        half = h[:, :2]
        return half, torch.tanh(x @ weight + h + total.unsqueeze(1) + above)


def test_what_has_rows_is_recorded_and_nothing_else():
    recording = record(Odd(), torch.randn(T, B, I))
    shapes = {name: tuple(value.shape[2:]) for name, value in recording.layers[0].directions[0].items()}
    assert shapes == {"total": (1,), "above": (H,), "half": (2,), "h": (H,)}
    assert set(recording["above"].unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(recording["half"], recording.output[0])


def test_a_recording_is_printed_with_the_words_of_the_gates():
    assert str(record(cw.GRU(I, H), torch.randn(T, B, I))).splitlines()[-4:] == [
        "  r   (6, 3, 5)  reset gate",
        "  z   (6, 3, 5)  update gate",
        "  n   (6, 3, 5)  candidate",
        "  h   (6, 3, 5)  state h",
    ]


def test_a_twin_is_made_once_and_keeps_no_cell_alive():
    cell = LSTM(I, H)
    record(cell, torch.randn(T, B, I))
    assert twin(cell) is twin(cell)
    cell.bias = "another"
    changed = twin(cell)
    assert changed.bias == "another"
    last = weakref.ref(cell)
    del cell
    gc.collect()
    assert last() is None


def test_errors_say_what_to_write():
    x = torch.randn(T, B, I)
    with pytest.raises(CellError, match=r"looks into is a cell, or a layer of Cellwright; got torch.nn.LSTM; write cw"):
        record(nn.LSTM(I, H), x)
    with pytest.raises(CellError, match=r"resets are read by Recurrent.*got resets for GRU; write cw.Recurrent"):
        record(cw.GRU(I, H), x, resets=torch.zeros(T, B, dtype=torch.bool))
    with pytest.raises(SettingError, match=r"has 2 layers; got a name without its layer; write .layers\[0\]"):
        record(cw.RNN(I, H, 2), x)["h"]
    with pytest.raises(SettingError, match=r"got 'q' of LSTM\(4, 5\); write one of i, f, o, g, h, c"):
        record(LSTM(I, H), x)["q"]
