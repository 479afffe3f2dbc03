"""Memory that is not where or what it was: moved, changed behind hooks, negated, none at all; gradients stay right."""

from contextlib import nullcontext

import pytest
import torch
from torch.autograd import grad
from torch.autograd.graph import allow_mutation_on_saved_tensors, save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

import cellwright as cw
from cellwright.cells import GRU, LSTM, RNN
from cellwright.kernels import choose
from tests.cpu.layers import same, small

T, B, I = 5, 3, 4


@pytest.fixture(params=[LSTM, GRU, RNN], ids=["lstm", "gru", "rnn"])
def layers(request):
    torch.manual_seed(0)
    return small(request.param, T, B, I, I)


def weights_of(layer):
    return list(layer.parameters())


def gradients(layer, x, change):
    """Of all weights, where something happens between forward and backward, and the memory is taken by another run."""
    x = x.detach().clone().requires_grad_()
    y = layer(x)[0]
    change(x, y)
    other = layer(torch.full_like(x, 7))[0]
    found = grad((y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum(), weights_of(layer))
    assert other.isfinite().all()
    return found


def give_x_other_memory(x, y):
    x.data = torch.zeros_like(x)


CHANGES = {
    "y is shared": lambda x, y: y.detach().share_memory_(),
    "x is shared": lambda x, y: x.detach().share_memory_(),
    "x gets other memory": give_x_other_memory,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_x_and_y_may_move_before_backward(layers, change):
    fused, plain, x = layers
    same(gradients(fused, x, change), gradients(plain, x, change))


def residual(layer, x):
    y = layer(x)[0]
    y += x
    return y.square()


IN_PLACE = {  # what PyTorch allows: what was saved is made again, or was copied
    "a checkpoint": (nullcontext, lambda layer, x: checkpoint(residual, layer, x, use_reentrant=False)),
    "hooks that copy": (lambda: saved_tensors_hooks(torch.clone, lambda one: one), residual),
    "allowed changes": (allow_mutation_on_saved_tensors, residual),
}


@pytest.mark.parametrize(("around", "run"), IN_PLACE.values(), ids=IN_PLACE)
def test_changes_in_place_behind_hooks(layers, around, run):
    fused, plain, x = layers
    with around():
        same(*(grad(run(layer, x).sum(), [x, *weights_of(layer)]) for layer in (fused, plain)))


def test_hooks_get_all_that_is_saved():
    """Nothing is kept beside what they took: a checkpoint frees the memory of the loops too."""
    layer = cw.Recurrent(LSTM(I, 32), backend="c")
    x = torch.randn(50, 8, I, requires_grad=True)
    layer(x)[0].sum().backward()
    own = choose(layer.first_cell, "c", x).entry.fused._own
    assert own.used == 0
    y = checkpoint(lambda x: layer(x)[0], x, use_reentrant=False)
    assert own.used == 0
    y.sum().backward()
    with save_on_cpu():
        y = layer(x)[0]
    assert own.used == 0
    plain = layer(x)[0]
    assert own.used > 0
    same(*(grad(one.sum(), x) for one in (y, plain)))


def negated(one):
    """The same numbers, of which memory holds the opposite; contiguous, so that no copy is made by the way."""
    return torch._neg_view(-one)


def with_weights(layer, x):
    weights = {name: negated(weight) for name, weight in layer.named_parameters()}
    return torch.func.functional_call(layer, weights, (x,))


NEGATED = {
    "x": lambda layer, x: layer(negated(x)),
    "the first state": lambda layer, x: layer(x, negated(torch.ones(1, B, I, dtype=x.dtype))),
    "weights": with_weights,
}


@pytest.mark.parametrize("run", NEGATED.values(), ids=NEGATED)
def test_tensors_that_say_negated(run):
    torch.manual_seed(0)
    fused, plain, x = small(GRU, 1, B, I, I)
    x = x.detach()
    assert negated(x).is_neg()
    assert negated(x).is_contiguous()
    with torch.no_grad():
        same(run(fused, x)[0], run(plain, x)[0])


def test_gradients_that_say_negated_or_have_no_memory(layers):
    fused, plain, x = layers
    for dy in (negated(torch.randn(T, B, I, dtype=x.dtype)), torch._efficientzerotensor((T, B, I), dtype=x.dtype)):
        same(*(grad(layer(x)[0], [x, *weights_of(layer)], dy) for layer in (fused, plain)))


def test_a_stream_of_what_says_negated():
    layer = cw.Recurrent(GRU(I, I), backend="c")
    x = torch.randn(1, I)
    same(layer.stream()(negated(x)), layer.stream()(negated(x).clone()))


def test_many_gradients_at_once(layers):
    fused, plain, x = layers
    many = torch.randn(6, T, B, I, dtype=x.dtype)
    found = [grad(layer(x)[0], [x, *weights_of(layer)], many, is_grads_batched=True) for layer in (fused, plain)]
    same(*found)
    assert not any(one.requires_grad for one in found[0])
    jacobian = torch.autograd.functional.jacobian
    same(*(jacobian(lambda x, layer=layer: layer(x)[0], x, vectorize=True) for layer in (fused, plain)))


def test_every_gradient_is_a_tensor_of_its_own(layers):
    fused, _, x = layers
    one, other, *_ = grad(fused(x)[0].sum(), weights_of(fused))
    scale = torch.ones_like(one, requires_grad=True)
    total = (one * scale).sum()
    other.mul_(2)  # changes nothing that `total` needs
    other.detach_()
    total.backward()
    assert torch.equal(scale.grad, one)
    assert one._base is None
    assert one.untyped_storage().nbytes() == one.nbytes
