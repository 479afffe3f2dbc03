"""Comparing a fast thing with a slow and plain one: outputs, final states and all gradients."""

import torch


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
