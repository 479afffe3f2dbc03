"""A fused layer is a part of PyTorch like any other: gradients of all kinds, changes of weights, copies, threads."""

import copy
import io
import os
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.nn.utils import parametrizations

import cellwright as cw
from cellwright.cells import GRU, LIBRARY, LSTM, RNN
from cellwright.kernels.c import function, run
from tests.oracle import as_function, drawn_inputs, flat, twins


@pytest.fixture(autouse=True, scope="module")
def quick_compiler():
    """What is tested here is not the speed of the loops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELLWRIGHT_CFLAGS", "-O1")
        yield


def small(kind=LSTM, steps=3, batch=2, inputs=2, hidden=3):
    """A fused layer and its twin step by step, with x and the parameters, all in float64."""
    fused, plain = twins(kind(inputs, hidden).double())
    x = torch.randn(steps, batch, inputs, dtype=torch.float64, requires_grad=True)
    return fused, plain, x


def same(ours, theirs, atol=1e-12):
    for one, other in zip(flat(ours), flat(theirs), strict=True):
        torch.testing.assert_close(one, other, atol=atol, rtol=atol)


def results(layer, x):
    """Results and gradients in x and all weights."""
    y, last = layer(x)
    total = y.square().sum() + sum((k + 2) * s.sum() for k, s in enumerate(flat(last)))
    return (y.detach(), *torch.autograd.grad(total, [x, *layer.parameters()]))


@pytest.mark.parametrize("name", LIBRARY)
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


def test_an_operation_in_place_on_y_that_autograd_sees_is_differentiated_or_refused():
    fused, plain, x = small(RNN)
    found = []
    for layer in (fused, plain):
        y, _ = layer(x)
        try:
            y.mul_(2)
            found.append(torch.autograd.grad(y.square().sum(), [x, *layer.parameters()]))
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)
    assert len(found) < 2 or same(*found) is None


@pytest.mark.parametrize("what", ["W_hi", "W_xo", "b_f", "x"])
def test_what_was_changed_in_place_between_forward_and_backward_raises(what):
    fused, _, x = small()
    x = x.detach().clone()
    y, _ = fused(x)
    with torch.no_grad():
        (x if what == "x" else getattr(fused.first_cell, what)).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda weights: torch.optim.SGD(weights, 0.1, momentum=0.9),
        lambda weights: torch.optim.SGD(weights, 0.1, fused=True),
        lambda weights: torch.optim.AdamW(weights, 0.1, fused=True),
        lambda weights: torch.optim.AdamW(weights, 0.1, foreach=True),
    ],
    ids=["sgd", "sgd fused", "adamw fused", "adamw foreach"],
)
def test_steps_of_an_optimizer_are_noticed(optimizer):
    fused, plain, x = small(GRU)
    steps = optimizer(fused.parameters())
    for _ in range(3):
        steps.zero_grad()
        fused(x)[0].square().sum().backward()
        steps.step()
        with torch.no_grad():
            same(fused(x), plain(x))
        same(results(fused, x), results(plain, x))


def swap_state_dict(cell):
    cell.load_state_dict({name: value + 0.3 for name, value in cell.state_dict().items()})


def swap_data(cell):
    cell.W_hh.data = cell.W_hh.data * 1.7


def write_data(cell):
    cell.W_hh.data.mul_(1.7)


def swap_parameter(cell):
    cell.W_hh = nn.Parameter(cell.W_hh.detach() * 1.7)


def write_numpy(cell):
    cell.b_h.detach().numpy()[:] += 0.3


@pytest.mark.parametrize("change", [swap_state_dict, swap_data, write_data, swap_parameter, write_numpy])
def test_weights_changed_or_replaced_are_noticed(change):
    fused, plain, x = small(RNN)
    before = fused(x)[0].detach().clone()
    change(fused.first_cell)
    same(results(fused, x), results(plain, x))
    assert not torch.allclose(before, fused(x)[0])
    with torch.no_grad():
        same(fused(x), plain(x))


def test_weights_put_in_from_outside_are_used_for_that_call_only():
    fused, plain, x = small(RNN)
    weights = {name: (value * 0.5).detach().requires_grad_() for name, value in fused.named_parameters()}
    before = results(fused, x)
    found = []
    for layer in (fused, plain):
        y, _ = torch.func.functional_call(layer, weights, (x,))
        found.append([y.detach(), *torch.autograd.grad(y.square().sum(), list(weights.values()))])
    same(*found)
    same(before, results(fused, x))


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", LIBRARY)
def test_without_gradients_the_numbers_are_the_same_and_nothing_is_kept(name, guard, monkeypatch):
    kept = []
    forward = run.Fused.forward

    def watch(self, x, states, key, leaves, keep):
        y, last, saved = forward(self, x, states, key, leaves, keep)
        kept.append((keep, dict(saved.buffers)))
        return y, last, saved

    monkeypatch.setattr(run.Fused, "forward", watch)
    layer = cw.Recurrent(LIBRARY[name](2, 7).double(), backend="c")
    batch = 6 * torch.get_num_threads()  # so that rows are split
    x = torch.randn(50, batch, 2, dtype=torch.float64)
    wanted = layer(x)
    with guard():
        found = layer(x)
    same([one.clone() for one in flat(found)], wanted, atol=0)
    assert [keep for keep, _ in kept] == [True, False]
    assert not any(one.requires_grad for one in flat(found))
    rows = {name: buffer.shape[0] for name, buffer in kept[1][1].items() if name not in ("x", "y", "state0")}
    assert all(count in (2, batch) for count in rows.values())  # of two steps (2, B, H) or one (B, ...); not of all 50


def test_gradients_after_inference_mode():
    fused, plain, x = small()
    with torch.inference_mode():
        fused(x.detach().clone())
    same(results(fused, x), results(plain, x))


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


def by_pickle(layer):
    return pickle.loads(pickle.dumps(layer))


def by_save(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, by_pickle, by_save])
def test_a_copy_of_a_layer_that_was_used_is_a_layer_of_its_own(duplicate):
    fused, plain, x = small()
    wanted = results(fused, x)
    other = duplicate(fused)
    same(results(other, x), wanted, atol=0)
    with torch.no_grad():
        other.first_cell.W_hi.add_(1)
    assert not torch.equal(results(other, x)[0], wanted[0])
    same(results(fused, x), results(plain, x))


def test_two_python_threads_may_run_one_layer_at_once():
    fused, plain, _ = small(steps=20, batch=7, hidden=11)
    inputs = [torch.randn(20, batch, 2, dtype=torch.float64, requires_grad=True) for batch in (7, 3)]
    wanted = [results(plain, x) for x in inputs]
    found = [[], []]

    def work(place):
        for _ in range(40):
            found[place].append(results(fused, inputs[place]))

    workers = [threading.Thread(target=work, args=(place,)) for place in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [len(one) for one in found] == [40, 40]
    for place in range(2):
        for one in found[place]:
            same(one, wanted[place])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_runs_a_layer_that_its_parent_used_on_two_threads():
    fused, _, x = small(batch=7, hidden=11)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        wanted = results(fused, x)
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            ok = all(torch.allclose(a, b, atol=1e-12) for a, b in zip(results(fused, x), wanted, strict=True))
            os._exit(0 if ok else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "wrap",
    [lambda cell: parametrizations.weight_norm(cell, "W_hh"), lambda cell: parametrizations.orthogonal(cell, "W_hh")],
    ids=["weight_norm", "orthogonal"],
)
@pytest.mark.parametrize("used", [False, True])
def test_parametrized_weights_fuse_or_fall_back_and_are_right(wrap, used):
    cell = RNN(2, 4).double()
    layer = cw.Recurrent(cell)
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    if used:
        layer(x)
    wrap(cell)
    same(results(layer, x), results(cw.Recurrent([cell], backend="eager"), x), atol=1e-10)


@pytest.mark.parametrize("used", [False, True])
def test_hooks_on_the_cell_run_at_every_step(used):
    layer = cw.Recurrent(GRU(2, 3, reset_after=False))
    x = torch.randn(4, 2, 2)
    if used:
        assert "backend c" in layer.explain()
        layer(x)
    calls = []
    handle = layer.first_cell.register_forward_hook(lambda *_: calls.append(1))
    layer(x)
    assert len(calls) == 4
    assert "hooks" in layer.explain()
    handle.remove()
    assert "backend c" in layer.explain()


class Settings(cw.Cell):
    """A cell whose step reads a number and whether it is training."""

    state = ("h",)
    gates = {"h": "hidden state"}

    def __init__(self, input_size, hidden_size, share=0.5):
        super().__init__(input_size, hidden_size)
        self.add_gates()
        self.alpha, self.share = 0.5, share

    def step(self, x, h):
        n = torch.tanh(x @ self.W_xh + h @ self.W_hh + self.b_h)
        n = nn.functional.dropout(n, self.share, self.training)
        return self.alpha * h + (1 - self.alpha) * n


def test_a_changed_number_of_the_cell_is_noticed():
    fused, plain, x = small(lambda i, h: Settings(i, h).eval())
    for alpha in (0.5, 0.3, 0.5):
        fused.first_cell.alpha = alpha
        same(results(fused, x), results(plain, x))


def test_dropout_in_a_step_is_refused_in_training_and_fuses_in_evaluation():
    layer = cw.Recurrent(Settings(2, 3))
    refused = layer.explain()
    assert "backend eager" in refused
    assert "random" in refused
    assert "test_fused_autograd.py:" in refused
    x = torch.randn(4, 2, 2)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert "backend c" in layer.explain()
    plain = cw.Recurrent(list(layer.cells), backend="eager")
    same(layer(x), plain(x), atol=1e-6)
    layer.train()
    assert "backend eager" in layer.explain()


def test_without_gradients_weights_are_packed_again_only_after_they_changed(monkeypatch):
    fused, _, x = small()
    packs = []
    pack = run.Fused._pack
    monkeypatch.setattr(run.Fused, "_pack", lambda self, *rest: packs.append(1) or pack(self, *rest))
    with torch.no_grad():
        for _ in range(3):
            fused(x)
        assert len(packs) == 1
        fused.first_cell.W_hi.mul_(0.5)
        fused(x)
        assert len(packs) == 2


def test_the_runs_above_were_fused(monkeypatch):
    calls = []
    monkeypatch.setattr(function.Run, "forward", lambda *rest: calls.append(1) or 1 / 0)
    fused, _, x = small()
    with pytest.raises(ZeroDivisionError):
        fused(x)
    assert calls
