"""A fused layer notices every change of its weights, and is copied, forked and shared like any other module."""

import copy
import io
import os
import pickle
import threading

import pytest
import torch
from torch import nn

from cellwright.cells import GRU, LIBRARY, RNN
from tests.cpu.layers import results, same, small


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


class Squared(RNN):
    """The gradient of its weight needs the transposed weight, which is a view."""

    def step(self, x, h):
        turned = self.W_hh.t()
        return torch.tanh(x @ self.W_xh + h @ (turned * turned) + self.b_h)


@pytest.mark.parametrize("kind", [LIBRARY["lstm-peephole"], LIBRARY["leaky-rnn"], LIBRARY["fastgrnn"], Squared])
def test_weights_may_move_to_other_memory_between_forward_and_backward(kind):
    fused, plain, x = small(kind)
    y, _ = plain(x)
    wanted = torch.autograd.grad(y.square().sum(), [x, *plain.parameters()])
    fused(x)  # so that the next run finds addresses that it knows
    y, _ = fused(x)
    for weight in fused.parameters():
        left, weight.data = weight.data, weight.data.clone()
        left.fill_(float("nan"))
    same(torch.autograd.grad(y.square().sum(), [x, *fused.parameters()]), wanted)


def test_a_bias_that_lay_apart_may_lie_together_at_the_same_place():
    fused, plain, x = small(RNN)
    base = torch.randn(6, dtype=torch.float64)
    for view in (base[::2], base[:3], base[::2]):
        fused.first_cell.b_h.data = view
        same(results(fused, x), results(plain, x))


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
