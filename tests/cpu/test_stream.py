"""Streams, truncated backpropagation and weights in and out."""

import numpy as np
import pytest
import torch
from torch import nn

import cellwright as cw
from cellwright.cells import LIBRARY
from cellwright.errors import SettingError, ShapeError
from tests.cpu.layers import same
from tests.oracle import CORE, flat

I, H = 3, 5


class Shown(cw.Cell):
    """A cell whose output is no state of it."""

    state = ("h",)
    gates = {"h": "hidden state"}

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.add_gates()

    def step(self, x, h):
        h = torch.tanh(x @ self.W_xh + h @ self.W_hh + self.b_h)
        return 2 * h, h


def layers():
    yield from (cw.Recurrent(LIBRARY[name](I, H).double(), 2, backend=b) for name in CORE for b in ("c", "eager"))
    yield cw.Recurrent(Shown(I, H).double(), backend="c")
    yield cw.Recurrent(LIBRARY["rnn"](I, 421).double(), backend="c")  # weights that come from afar
    yield cw.LSTM(I, H, 2, proj_size=2, dtype=torch.float64)
    yield cw.GRU(I, H, 2, dtype=torch.float64, reset_after=False, backend="eager")


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_stream_is_the_sequence_step_by_step(batch):
    for layer in layers():
        x = torch.randn(6, batch, I, dtype=torch.float64)
        stream = layer.stream(batch)
        y, last = layer(x)
        found = [stream(x_t) for x_t in x]
        same([torch.stack(found)], [y.detach()])
        same([torch.stack(one) for one in zip(*stream.state, strict=True)], [s.detach() for s in flat(last)])
        stream.reset()
        same([stream(x[0])], [y[0].detach()])
        rows = torch.arange(batch) % 2 == 0
        stream.reset(rows)
        same([stream(x[0])[rows]], [y[0][rows].detach()])


def test_a_stream_keeps_the_weights_that_it_was_made_with():
    layer = cw.Recurrent(cw.cells.GRU(I, H))
    stream, x = layer.stream(), torch.randn(1, I)
    first = stream(x)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
    stream.reset()
    assert torch.equal(stream(x), first)
    assert not torch.equal(layer.stream()(x), first)
    assert stream(x[0]).shape == (H,)
    assert not stream(x.requires_grad_()).requires_grad


def test_a_stream_begins_with_a_learned_state():
    layer = cw.LSTM(I, H, 2, learn_state=True, dtype=torch.float64)
    with torch.no_grad():
        layer.h0.normal_()
        layer.c0.normal_()
    x = torch.randn(3, 2, I, dtype=torch.float64)
    stream = layer.stream(2)
    same([torch.stack([stream(x_t) for x_t in x])], [layer(x)[0].detach()])


@pytest.mark.parametrize("backend", ["c", "eager"])
def test_a_stream_goes_on_from_a_state_that_it_is_given(backend):
    layer = cw.Recurrent(cw.cells.LSTM(I, H).double(), 2, backend=backend)
    x = torch.randn(6, 2, I, dtype=torch.float64)
    first, second = layer.stream(2), layer.stream(2)
    for x_t in x[:4]:
        first(x_t)
    second(x[5])
    second.state = first.state
    same([torch.stack([second(x_t) for x_t in x[4:]])], [layer(x)[0][4:].detach()])


def test_what_a_stream_refuses():
    for layer in (cw.Recurrent(cw.cells.GRU(I, H), bidirectional=True), cw.LSTM(I, H, bidirectional=True)):
        with pytest.raises(
            SettingError, match=r"a stream reads forward: .* got bidirectional=True; stream a layer with"
        ):
            layer.stream()
    stream = cw.GRU(I, H).stream(2)
    with pytest.raises(ShapeError) as caught:
        stream(torch.zeros(3, I))
    assert str(caught.value) == (
        "a step of this stream is (2, 3) torch.float32; got (3, 3) torch.float32; "
        "pass one step of every sequence, or make a stream with batch_size=3"
    )
    with pytest.raises(SettingError, match="batch_size is a whole number of at least 1; got 0; write batch_size=1"):
        cw.GRU(I, H).stream(0)


@pytest.mark.parametrize("make", [lambda: cw.LSTM(I, H, 2), lambda: nn.GRU(I, H, batch_first=True)])
def test_truncated_backpropagation_is_chunk_by_chunk(make):
    layer = make().double()
    x = torch.randn(*((2, 8) if layer.batch_first else (8, 2)), I, dtype=torch.float64)
    time = 1 if layer.batch_first else 0
    found, parts = [], []
    for y, part, state in cw.truncated(layer, x, 3):
        found.append(y)
        parts.append(part)
        assert not any(s.requires_grad for s in flat(state))
    same([torch.cat(found, time)], [layer(x)[0]])
    assert parts == [slice(0, 3), slice(3, 6), slice(6, 8)]
    h = layer(x.narrow(time, 0, 3))[1]
    second = layer(x.narrow(time, 3, 3), cw.detached(h))[0]
    same(torch.autograd.grad(found[1].sum(), layer.parameters()), torch.autograd.grad(second.sum(), layer.parameters()))
    with pytest.raises(SettingError, match="a chunk has a whole number of steps, at least 1; got steps=0"):
        next(cw.truncated(layer, x, 0))


def by_keras(weights, kind, x, reset_after=True):
    """Keras's equations, written from its documentation: gates in the order i f c o, and z r h."""
    kernel, recurrent, *bias = weights
    units = recurrent.shape[0]
    parts = kernel.shape[1] // units
    bias = bias[0] if bias else np.zeros(parts * units)
    first, second = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    h = c = np.zeros((x.shape[1], units))
    ys = []
    for x_t in x:
        a = np.split(x_t @ kernel + first, parts, 1)
        b = np.split(h @ recurrent + second, parts, 1)
        if kind == "RNN":
            h = np.tanh(a[0] + b[0])
        elif kind == "LSTM":
            c = sigmoid(a[1] + b[1]) * c + sigmoid(a[0] + b[0]) * np.tanh(a[2] + b[2])
            h = sigmoid(a[3] + b[3]) * np.tanh(c)
        else:
            z, r = sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1])
            inner = r * b[2] if reset_after else (r * h) @ np.split(recurrent, 3, 1)[2]
            h = z * h + (1 - z) * np.tanh(a[2] + inner)
        ys.append(h)
    return np.stack(ys)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kind", "gates", "after"), [("RNN", 1, True), ("LSTM", 4, True), ("GRU", 3, True), ("GRU", 3, False)]
)
def test_keras_weights_there_and_back(kind, gates, after, bias):
    random = np.random.default_rng(0)
    weights = [random.standard_normal((I, gates * H)), random.standard_normal((H, gates * H))]
    if bias:
        weights.append(random.standard_normal((2, gates * H) if kind == "GRU" and after else gates * H))
    if kind == "GRU" and not bias:
        after = False
    layer = cw.from_keras(weights, kind, dtype=torch.float64)
    x = random.standard_normal((6, 2, I))
    np.testing.assert_allclose(layer(torch.from_numpy(x))[0].detach(), by_keras(weights, kind, x, after), atol=1e-12)
    for one, other in zip(cw.to_keras(layer), weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_torch_and_back():
    x = torch.randn(6, 2, I)
    for kind in (nn.RNN, nn.GRU, nn.LSTM):
        theirs = kind(I, H, 2, bidirectional=True, batch_first=True)
        ours = cw.from_torch(theirs)
        same([cw.to_torch(ours)(x)[0]], [theirs(x)[0]], atol=0)
        same([ours(x)[0]], [theirs(x)[0]], atol=1e-6)
    for name in ("rnn", "gru", "lstm"):
        layer = cw.Recurrent(LIBRARY[name](I, H), 2, bidirectional=True)
        same(flat(cw.to_torch(layer)(x)), flat(layer(x)), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: cw.from_torch(nn.Linear(2, 3)), "from_torch takes torch.nn.RNN, GRU or LSTM; got Linear; pass one"),
        (lambda: cw.to_torch(cw.GRU(I, H, reset_after=False)), "to_torch gives what torch.nn has: a reset gate after"),
        (lambda: cw.to_torch(cw.Recurrent(Shown(I, H))), "to_torch takes cells that torch.nn has"),
        (
            lambda: cw.from_keras([np.zeros((3, 20)), np.zeros((5, 19))], "LSTM"),
            "got (3, 20), (5, 19); pass layer.get_",
        ),
        (lambda: cw.from_keras([], "lstm"), "kind is one of LSTM, GRU, RNN; got 'lstm'; write kind='LSTM', say"),
        (lambda: cw.to_keras(cw.LSTM(I, H, 2)), "a Keras layer is one layer in one direction, without projection; got"),
    ],
)
def test_what_is_refused_says_why(make, words):
    with pytest.raises((SettingError, ShapeError)) as caught:
        make()
    assert words in str(caught.value)
