"""A fused layer notices all that changes, and is copied, forked, hooked and shared like any other module."""

import copy
import io
import os
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import cellwright as cw
from cellwright.cells import GRU, LIBRARY, RNN
from cellwright.kernels.c import run
from tests.cpu.layers import results, same, small
from tests.oracle import flat


@pytest.fixture(autouse=True, scope="module")
def quick_compiler():
    """What is tested here is not the speed of the loops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELLWRIGHT_CFLAGS", "-O1")
        yield


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
    rows = {name: buffer.shape[0] for name, buffer in kept[1][1].items() if name not in ("x", "y", "state0", "scratch")}
    assert all(count in (2, batch) for count in rows.values())  # of two steps (2, B, H) or one (B, ...); not of all 50


def test_gradients_after_inference_mode():
    fused, plain, x = small()
    with torch.inference_mode():
        fused(x.detach().clone())
    same(results(fused, x), results(plain, x))


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
    assert "test_fused_changes.py:" in refused
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
