"""Comparing a fast thing with a slow and plain one: outputs, final states and all gradients."""

import torch

CORE = (
    "rnn",
    "rnn-relu",
    "gru",
    "gru-reset-before",
    "lstm",
)  # of the library, for tests that look at few cells closely


def tolerance(dtype, depth=1):
    """How far two ways to compute the same may be apart, after so many dependent steps."""
    return 64 * depth * torch.finfo(dtype).eps


def flat(value):
    """All tensors in a nest of tuples."""
    return [value] if isinstance(value, torch.Tensor) else [one for part in value for one in flat(part)]


def results_and_gradients(run, inputs):
    """What run(*inputs) returns, and the gradients of a random weighting of it in every input."""
    inputs = [one.detach().clone().requires_grad_() for one in inputs]
    results = flat(run(*inputs))
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(r.shape, generator=generator, dtype=r.dtype) for r in results]
    total = sum((weight * result).sum() for weight, result in zip(weights, results, strict=True))
    return results, torch.autograd.grad(total, inputs)


def assert_same(run, reference, inputs, atol):
    """Both give the same results and the same gradients in every input."""
    ours, theirs = results_and_gradients(run, inputs), results_and_gradients(reference, inputs)
    for kind, left, right in zip(("result", "gradient"), ours, theirs, strict=True):
        for place, (one, other) in enumerate(zip(left, right, strict=True)):
            message = f"{kind} {place}"
            torch.testing.assert_close(one, other, atol=atol, rtol=atol, msg=lambda m, s=message: f"{s}: {m}")


def closeness(dtype, steps, columns):
    """How far two ways to run a layer may be apart, as a share of the largest number.

    Every step adds `columns` products in an order of its own; what it rounds off is carried through all later ones.
    """
    return 8 * torch.finfo(dtype).eps * (8 + steps + columns)


def assert_alike(run, reference, inputs, share):
    """As `assert_same`, apart by a share of the largest number in each tensor, as sums in another order are."""
    ours, theirs = results_and_gradients(run, inputs), results_and_gradients(reference, inputs)
    for kind, left, right in zip(("result", "gradient"), ours, theirs, strict=True):
        for place, (one, other) in enumerate(zip(left, right, strict=True)):
            assert one.shape == other.shape, f"{kind} {place}"
            apart = (one - other).abs().max().item()
            assert apart <= share * max(1.0, other.abs().max().item()), f"{kind} {place}: {apart}"


def as_function(layer):
    """A layer as a function of x, its first states and its parameters."""
    names, states = [name for name, _ in layer.named_parameters()], len(layer.first_cell.state)

    def run(x, *rest):
        parameters = dict(zip(names, rest[states:], strict=True))
        state = rest[:states] if states > 1 else rest[0]
        return torch.func.functional_call(layer, parameters, (x, state))

    return run


def twins(cell, backend="c", **options):
    """The same cells in two layers: one runs fused by a backend, one step by step."""
    from cellwright import Recurrent

    fused = Recurrent(cell, backend=backend, **options)
    return fused, Recurrent(list(fused.cells), backend="eager", **options)


def drawn_inputs(layer, steps, batch, dtype):
    """x, a state of every kind, and the parameters."""
    cell = layer.first_cell
    shape = (batch, steps) if layer.batch_first else (steps, batch)
    x = torch.randn(*shape, cell.input_size, dtype=dtype)
    states = [torch.randn(len(layer.cells), batch, size, dtype=dtype) for size in cell.state_sizes]
    return [x, *states, *layer.parameters()]
