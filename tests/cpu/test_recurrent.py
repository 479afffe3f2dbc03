"""Recurrent: shapes, states, layouts, backends and the words of its errors."""

import copy

import pytest
import torch
from torch import nn

import cellwright as cw
from cellwright.cells import GRU, LIBRARY, LSTM, RNN
from cellwright.errors import BackendError, CellError, SettingError, ShapeError
from cellwright.layers import Dropout
from tests.oracle import CORE

NAMES = CORE


class Leaky(cw.Cell):
    """A cell of a user's own, with an output that is not a state."""

    state = ("h",)
    gates = {"h": "hidden state"}

    def __init__(self, input_size, hidden_size, leak=0.9):
        super().__init__(input_size, hidden_size)
        self.leak = leak
        self.add_gates()

    def step(self, x, h):
        h = self.leak * h + (1 - self.leak) * torch.tanh(x @ self.W_xh + h @ self.W_hh + self.b_h)
        return torch.relu(h), h


@pytest.mark.parametrize("name", NAMES)
def test_a_sequence_in_two_parts_with_the_state_carried_is_the_whole(name):
    layer = cw.Recurrent(LIBRARY[name](3, 5), num_layers=2).double()
    x = torch.randn(9, 2, 3).double()
    y, state = layer(x)
    first, carried = layer(x[:4])
    second, last = layer(x[4:], carried)
    torch.testing.assert_close(torch.cat([first, second]), y)
    torch.testing.assert_close(last, state)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_rows_and_unbatched_is_a_batch_of_one(name):
    layer = cw.Recurrent(LIBRARY[name](3, 5), bidirectional=True).double()
    x = torch.randn(6, 4, 3).double()
    y, _ = layer(x)
    for row in range(4):
        alone, _ = layer(x[:, row])
        torch.testing.assert_close(alone, y[:, row])


@pytest.mark.parametrize("name", NAMES)
def test_bidirectional_is_two_runs(name):
    layer = cw.Recurrent(LIBRARY[name](3, 5), bidirectional=True).double()
    forward, backward = (cw.Recurrent(cell) for cell in layer.cells)
    x = torch.randn(6, 2, 3).double()
    expected = torch.cat([forward(x)[0], backward(x.flip(0))[0].flip(0)], dim=2)
    torch.testing.assert_close(layer(x)[0], expected)


def test_batch_first_only_turns_the_axes():
    layer = cw.Recurrent(LSTM(3, 5), batch_first=True)
    other = cw.Recurrent(list(layer.cells))
    x = torch.randn(2, 7, 3)
    torch.testing.assert_close(layer(x)[0], other(x.transpose(0, 1))[0].transpose(0, 1))


def test_dropout_acts_between_layers_in_training_only():
    layer = cw.Recurrent(LSTM(3, 5), num_layers=2, dropout=0.5)
    x = torch.randn(6, 2, 3)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    with pytest.warns(UserWarning, match="dropout acts between layers and there is one"):
        single = cw.Recurrent(LSTM(3, 5), dropout=0.5)
    assert torch.equal(single(x)[0], single(x)[0])  # never after the last layer


def test_dropout_masks_of_parts_are_cut_from_the_mask_of_the_whole():
    whole, part = Dropout(0.5), Dropout(0.5)
    part.rows(1, 3)
    x = torch.ones(4, 6, 5)
    torch.manual_seed(3)
    together = whole(x)
    torch.manual_seed(3)
    torch.testing.assert_close(part(x[:, 2:4]), together[:, 2:4])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_zeroes_its_share_and_keeps_the_mean(share):
    x = torch.ones(50, 40, 100)
    y = Dropout(share)(x)
    assert float((y == 0).float().mean()) == pytest.approx(share, abs=0.005)
    assert float(y.mean()) == pytest.approx(1, abs=0.02)
    assert len(y.unique()) == 2
    runs = (y[1:] == y[:-1]).float().mean()  # neighbours are independent
    assert float(runs) == pytest.approx(share**2 + (1 - share) ** 2, abs=0.01)
    assert torch.equal(Dropout(0.0)(x), x)


def test_a_cell_of_ones_own_runs_stacked_and_gives_its_extra_output():
    layer = cw.Recurrent(Leaky(3, 5, leak=0.5), num_layers=2)
    y, h = layer(torch.randn(4, 2, 3))
    assert (y.shape, h.shape) == ((4, 2, 5), (2, 2, 5))
    assert bool((y >= 0).all())
    torch.testing.assert_close(y[-1], torch.relu(h[-1]))
    assert [cell.leak for cell in layer.cells] == [0.5, 0.5]
    assert "backend c; " in layer.explain()
    assert "tanh(x @ W_xh + h[t-1] @ W_hh + b_h)" in layer.explain()
    assert "static void forward_0" in layer.source()


def test_what_is_explained_says_the_cell_in_one_line():
    cells = {
        "RNN(3, 5)": RNN(3, 5),
        "LSTMCell(3, states of 5, 5)": torch.nn.LSTMCell(3, 5),
        "Zoneout(LSTM(3, 5), share=0.5)": cw.cells.Zoneout(cw.cells.LSTM(3, 5), 0.5),
    }
    for line, cell in cells.items():
        assert cw.Recurrent(cell).explain().splitlines()[0] == f"layer 0, forward: {line}"


def test_layers_have_weights_of_their_own():
    layer = cw.Recurrent(RNN(5, 5), num_layers=2)
    assert not torch.equal(layer.cells[0].W_hh, layer.cells[1].W_hh)


def test_rewritten_equations_are_not_handed_to_torch():
    class Peculiar(LSTM):
        def step(self, x, h, c):
            h, c = super().step(x, h, c)
            return 2 * h, c

    layer = cw.Recurrent(Peculiar(3, 5))
    assert next(layer.choices()).backend == "c"
    plain = cw.Recurrent(list(layer.cells), backend="eager")
    x = torch.randn(4, 2, 3)
    torch.testing.assert_close(layer(x)[0], plain(x)[0])
    patched = LSTM(3, 5)
    patched.step = lambda x, h, c: (h, c)
    assert not cw.Recurrent(patched)(torch.ones(2, 1, 3))[0].any()

    class Forward(LSTM):
        def forward(self, x, h, c):
            return h * 0, c

    assert not cw.Recurrent(Forward(3, 5))(torch.ones(2, 1, 3))[0].any()
    hooked, calls = LSTM(3, 5), []
    hooked.register_forward_hook(lambda *_: calls.append(1))
    cw.Recurrent(hooked)(torch.ones(4, 1, 3))
    assert len(calls) == 4


def test_parametrized_weights_run_in_both_backends():
    cell = LSTM(3, 5)
    nn.utils.parametrizations.weight_norm(cell, "W_hi")
    x = torch.randn(4, 2, 3)
    plain = cw.Recurrent(cell, backend="eager")
    for backend in ("c", "torch"):
        torch.testing.assert_close(cw.Recurrent(cell, backend=backend)(x)[0], plain(x)[0])


def test_copies_and_saved_weights_are_the_same_layer():
    layer = cw.Recurrent(GRU(3, 5, reset_after=False), num_layers=2)
    x = torch.randn(4, 2, 3)
    twin = copy.deepcopy(layer)
    torch.testing.assert_close(twin(x)[0], layer(x)[0])
    other = cw.Recurrent(GRU(3, 5, reset_after=False), num_layers=2)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x)[0], layer(x)[0])


def test_no_bias_leaves_no_parameter_and_moves_with_the_module():
    cell = LSTM(3, 5, bias=False).double()
    assert [name for name, _ in cell.named_parameters() if name.startswith("b_")] == []
    assert cw.Recurrent(cell)(torch.zeros(2, 1, 3).double())[0].dtype == torch.float64


def test_a_graph_of_modules_is_checked_by_hand():
    """The RNN with numbers that can be followed with a pencil: h = relu(2 * 3 + 1 * 4 + 5)."""
    cell = RNN(1, 1, nonlinearity="relu")
    for name, value in (("W_xh", 2.0), ("W_hh", 1.0), ("b_h", 5.0)):
        cell.get_parameter(name).data.fill_(value)
    assert cell(torch.tensor([[3.0]]), torch.tensor([[4.0]])).item() == 15.0


class Wide(RNN):
    def step(self, x, h):
        return x


class Silent(RNN):
    def step(self, x, h):
        pass


class Sizes(RNN):
    def __init__(self, *sizes):
        super().__init__(*sizes)


def build(**options):
    return cw.Recurrent(GRU(3, 5), **options)


ERRORS = [
    (lambda: cw.Recurrent(nn.Linear(3, 5)), CellError, "got Linear without them; write cw.adapt(cell, input_size="),
    (
        lambda: cw.Recurrent(3),
        CellError,
        "cell is a Cell, or a list of them; got an object of int; write cw.Recurrent(",
    ),
    (lambda: cw.Recurrent(GRU), CellError, "cell is a Cell, or a list of them; got the class GRU; write"),
    (lambda: cw.Recurrent(Wide(28, 16))(torch.zeros(5, 3, 28)), CellError, "h is (3, 16) torch.float32; got (3, 28)"),
    (lambda: cw.Recurrent(Silent(3, 5))(torch.zeros(5, 3, 3)), CellError, "got NoneType from Silent.step; return h"),
    (
        lambda: cw.Recurrent([LSTM(3, 5), LSTM(9, 5)], num_layers=2),
        CellError,
        "cell 1 of this list has states ('h', 'c'), 5 inputs, 5 units and 5 outputs; got LSTM(9, 5) with states",
    ),
    (lambda: cw.Recurrent([LSTM(3, 5), GRU(5, 5)], num_layers=2), CellError, "got GRU(5, 5) with states ('h',)"),
    (
        lambda: build()(torch.zeros(4, 2, 3), torch.zeros(1, 2, 5).double()),
        ShapeError,
        "shapes (1, 2, 5) torch.float64",
    ),
    (
        lambda: cw.Recurrent(Sizes(3, 5), num_layers=2),
        CellError,
        "takes (self, input_size, hidden_size, ...); got Sizes",
    ),
    (lambda: RNN(0, 5), CellError, "input_size is a whole number of at least 1; got input_size=0"),
    (lambda: RNN(3, True), CellError, "hidden_size is a whole number of at least 1; got hidden_size=True"),
    (lambda: RNN(3, 5, "sin"), CellError, "nonlinearity is 'tanh' or 'relu'; got 'sin'"),
    (lambda: cw.Cell(3, 5)(torch.zeros(1, 3)), CellError, "a cell needs a method step"),
    (lambda: build(num_layers=0), SettingError, "num_layers is a whole number of at least 1; got 0"),
    (lambda: build(backend="warp"), BackendError, "a backend is one of auto, c, triton, torch, eager; got 'warp'"),
    (lambda: build(dropout=1.0), SettingError, "dropout is a share of at least 0 and below 1; got 1.0"),
    (lambda: build()(torch.zeros(3)), ShapeError, "I = 3 columns and T at least 1; got a tensor of shape (3,)"),
    (lambda: build()(torch.zeros(0, 2, 3)), ShapeError, "got a tensor of shape (0, 2, 3)"),
    (lambda: build()(torch.zeros(4, 2, 7)), ShapeError, "got a tensor of shape (4, 2, 7); reshape x to (T, B, I)"),
    (lambda: build(batch_first=True)(torch.zeros(4, 0, 3)), ShapeError, "x is (B, T, I)"),
    (lambda: build()(torch.zeros(4, 2, 3).double()), ShapeError, "torch.float32; got torch.float64"),
    (lambda: build()([1.0]), ShapeError, "got list; pass a tensor"),
    (
        lambda: build()(torch.zeros(4, 2, 3), torch.zeros(1, 3, 5)),
        ShapeError,
        "each of shape (1, 2, 5) and torch.float32; got shapes (1, 3, 5)",
    ),
    (
        lambda: cw.Recurrent([GRU(3, 5)], num_layers=2),
        CellError,
        "one Cell for each layer and direction, here 2; got 1",
    ),
    (
        lambda: cw.Recurrent(GRU(3, 5, reset_after=False), backend="torch"),
        BackendError,
        "got GRU(3, 5, reset_after=False), whose equations torch.nn does not have; write backend='auto'",
    ),
]


@pytest.mark.parametrize(("wrong", "kind", "words"), ERRORS, ids=[words[:40] for _, _, words in ERRORS])
def test_an_error_says_the_rule_what_came_and_what_to_write(wrong, kind, words):
    with pytest.raises(kind) as caught:
        wrong()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all((caught.value.rule, caught.value.came, caught.value.write))


def test_a_step_that_returns_too_much_is_refused():
    class Chatty(RNN):
        def step(self, x, h):
            return h, h, h

    with pytest.raises(CellError, match=r"got a tensor, a tensor, a tensor from Chatty\.step; return h"):
        cw.Recurrent(Chatty(3, 5))(torch.zeros(2, 1, 3))


def test_forgotten_gates_are_hinted_at():
    class Forgetful(cw.Cell):
        gates = {"h": "hidden state"}

        def step(self, x, h):
            return torch.tanh(x @ self.W_xh)

    with pytest.raises(AttributeError, match=r"'W_xh': call self\.add_gates\(\) in __init__ to create it"):
        cw.Recurrent(Forgetful(3, 5))(torch.zeros(2, 1, 3))


def test_any_module_can_hold_the_layer():
    model = nn.Sequential(nn.Linear(2, 3), cw.Recurrent(LSTM(3, 5)))
    assert model(torch.zeros(4, 1, 2))[0].shape == (4, 1, 5)


def test_layers_may_have_different_sizes():
    lower, upper = cw.cells.LSTM(3, 7).double(), cw.cells.LSTM(7, 4).double()
    layer = cw.Recurrent([lower, upper], num_layers=2)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    y, (h, c) = layer(x)
    assert [tuple(one.shape) for one in (*h, *c)] == [(1, 2, 7), (1, 2, 4), (1, 2, 7), (1, 2, 4)]
    below = cw.Recurrent(lower)(x)
    above = cw.Recurrent(upper)(below[0])
    parts = (above[0], below[1][0], above[1][0], below[1][1], above[1][1])
    assert all(torch.equal(one, other) for one, other in zip((y, *h, *c), parts, strict=True))
    first = layer(x[:2])
    rest = layer(x[2:], first[1])
    torch.testing.assert_close(torch.cat([first[0], rest[0]]), y, atol=1e-13, rtol=0)
    alone = layer(x[:, 0])
    assert [tuple(one.shape) for one in alone[1][0]] == [(1, 7), (1, 4)]
    with pytest.raises(ShapeError, match=r"of shapes \[\(1, 2, 7\), \(1, 2, 4\), .*; got shapes \(1, 2, 7\)"):
        layer(x, (h[0], c[0]))
