"""Gradients of a fused layer: of any part, twice, of second order, in forward mode; never wrong in silence."""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import cellwright as cw
from cellwright.cells import GRU, LIBRARY, LSTM, RNN
from cellwright.kernels import function
from tests.cpu.layers import same, small
from tests.oracle import CORE, as_function, drawn_inputs, flat


@pytest.mark.parametrize("name", CORE)
def test_gradcheck(name):
    layer = cw.Recurrent(LIBRARY[name](2, 3).double(), backend="c")
    inputs = [one.detach().requires_grad_() for one in drawn_inputs(layer, 3, 2, torch.float64)]
    assert gradcheck(lambda *all: tuple(flat(as_function(layer)(*all))), inputs)


@pytest.mark.parametrize("name", ["rnn", "lstm"])
def test_gradgradcheck(name):
    layer = cw.Recurrent(LIBRARY[name](1, 2).double(), backend="c")
    inputs = [one.detach().requires_grad_() for one in drawn_inputs(layer, 2, 2, torch.float64)]
    assert gradgradcheck(lambda *all: tuple(flat(as_function(layer)(*all))), inputs)


def test_second_derivatives_equal_those_step_by_step():
    fused, plain, x = small()
    found = []
    for layer in (fused, plain):
        y, _ = layer(x)
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        found.append([first.detach(), *torch.autograd.grad(first.square().sum(), [x, *layer.parameters()])])
    same(*found)


def test_two_backwards_give_the_same_gradients_twice():
    fused, plain, x = small()
    y, last = fused(x)
    total = y.square().sum() + last[1].sum()
    inputs = [x, *fused.parameters()]
    first, second = (torch.autograd.grad(total, inputs, retain_graph=True) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    y, last = plain(x)
    same(first, torch.autograd.grad(y.square().sum() + last[1].sum(), inputs))


class Alike(cw.Cell):
    """Weights whose gradients are the same numbers, or a part of another's, or its transpose."""

    state = ("h",)
    gates = ("gate",)

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        shapes = {"all": (I + H, H), "some": (I, H), "turned": (H, H), "b": (H,), "b_too": (H,), "b_again": (H,)}
        for name, shape in shapes.items():
            self.register_parameter(name, torch.nn.Parameter(0.3 * torch.randn(shape)))
        self.scale = torch.nn.Parameter(torch.randn(()))

    def step(self, x, h):
        gate = torch.cat([x, h], 1) @ self.all + x @ self.some + h @ self.turned.t() + self.b + self.b_too
        return torch.tanh(gate + self.b_again + self.scale)


I, H = 3, 4


def test_gradients_that_are_the_same_numbers_add_up_each_for_itself():
    """None may lie where another does: they are added to, and clipped, in place."""
    torch.manual_seed(0)
    layer, x = cw.Recurrent(Alike(I, H).double(), backend="c"), torch.randn(5, 2, I, dtype=torch.float64)
    found = []
    for one in (layer, cw.Recurrent(list(layer.cells), backend="eager")):
        one.zero_grad()
        for batch in (x, x.flip(0)):
            one(batch)[0].square().sum().backward()
        torch.nn.utils.clip_grad_norm_(one.parameters(), 0.1)
        found.append([parameter.grad for parameter in one.parameters()])
    same(*found)
    layer.zero_grad()
    layer(x)[0].sum().backward()
    starts = [parameter.grad.data_ptr() for parameter in layer.parameters()]
    assert len(set(starts)) == len(starts)


def test_a_second_backward_without_retain_graph_raises_what_torch_raises():
    fused, _, x = small()
    total = fused(x)[0].sum()
    total.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        total.backward()


@pytest.mark.parametrize(
    "part",
    [
        lambda y, h, c: y.square().sum(),
        lambda y, h, c: c.square().sum(),
        lambda y, h, c: h.square().sum(),
        lambda y, h, c: y[1, 0].square().sum(),
        lambda y, h, c: y[-1].sum() + h.sum(),
        lambda y, h, c: (y[:, :, 1] * 2).exp().sum() + c[0, 1, 2],
        lambda y, h, c: y.transpose(0, 2).sum(0).prod(),
        lambda y, h, c: y.sum(),
    ],
    ids=["y", "c", "h", "a row", "last", "columns", "transposed", "expanded"],
)
def test_backward_of_any_part_of_the_results(part):
    fused, plain, x = small()
    found = []
    for layer in (fused, plain):
        y, (h, c) = layer(x)
        found.append(torch.autograd.grad(part(y, h, c), [x, *layer.parameters()], allow_unused=True))
    for one, other in zip(*found, strict=True):  # what nothing flows to is None or zero
        torch.testing.assert_close(one if one is not None else 0 * other, other, atol=1e-12, rtol=1e-12)


class Unread(cw.Cell):
    """A cell whose second state nothing reads, and whose step returns one value twice."""

    state = ("h", "c")
    gates = {"h": "hidden state"}

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.add_gates()

    def step(self, x, h, c):
        h = torch.tanh(x @ self.W_xh + h @ self.W_hh + self.b_h)
        return h, h


def test_the_gradient_of_a_state_that_no_step_reads_comes_in_once():
    fused, plain, x = small(Unread, steps=5)
    found = []
    for layer in (fused, plain):
        _, (_, c) = layer(x)
        found.append(torch.autograd.grad(c.sum(), [x, *layer.parameters()]))
    same(*found)


@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_results_changed_in_place_before_backward_raise_and_are_never_wrong(kind):
    """y is what the derivative of the reference reads, too; a state is a copy, which may be changed."""
    fused, plain, x = small(kind)
    y, _ = fused(x)
    with torch.no_grad():
        y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    found = []
    for layer in (fused, plain):
        y, last = layer(x)
        scaled = flat(last)[-1].mul_(3)
        found.append(torch.autograd.grad(y.sum() + scaled.square().sum(), [x, *layer.parameters()]))
    same(*found)


def test_an_operation_in_place_that_autograd_sees_is_refused_not_wrong():
    """Step by step, y is a tensor of its own; fused, it is what backward reads."""
    fused, _, x = small(RNN)
    y, _ = fused(x)
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.square().sum().backward()


@pytest.mark.parametrize("what", ["W_hi", "W_xo", "b_f", "x"])
def test_what_was_changed_in_place_between_forward_and_backward_raises(what):
    fused, _, x = small()
    x = x.detach().clone()
    y, _ = fused(x)
    with torch.no_grad():
        (x if what == "x" else getattr(fused.first_cell, what)).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # PyTorch's own, for its formulas
def test_function_transforms_run_step_by_step_and_are_right():
    fused, plain, x = small()
    x = x.detach()
    weights = {name: value.detach() for name, value in fused.named_parameters()}
    tangent = torch.randn_like(x)
    many = torch.randn(4, *x.shape, dtype=x.dtype)

    def loss(layer):
        return lambda w, x: torch.func.functional_call(layer, w, (x,))[0].square().sum()

    for transform in (
        lambda f: f(weights, x),
        lambda f: flat(tuple(torch.func.grad(f)(weights, x).values())),
        lambda f: torch.func.vmap(lambda one: f(weights, one))(many),
        lambda f: torch.func.vmap(torch.func.grad(lambda one: f(weights, one)))(many),
        lambda f: torch.func.jvp(lambda one: f(weights, one), (x,), (tangent,)),
        lambda f: torch.func.hessian(lambda one: f(weights, one))(x[:1]),
    ):
        same(transform(loss(fused)), transform(loss(plain)))


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # PyTorch's own, for its formulas
def test_forward_mode_derivatives_are_right():
    fused, plain, x = small()
    tangent = torch.randn_like(x)
    found = []
    for layer in (fused, plain):
        with forward_ad.dual_level():
            y, _ = layer(forward_ad.make_dual(x.detach(), tangent))
            found.append(forward_ad.unpack_dual(y))
    same(tuple(found[0]), tuple(found[1]))


def test_the_runs_above_were_fused(monkeypatch):
    calls = []
    monkeypatch.setattr(function.Run, "forward", lambda *rest: calls.append(1) or 1 / 0)
    fused, _, x = small()
    with pytest.raises(ZeroDivisionError):
        fused(x)
    assert calls
