"""A captured step on numbers: what its atoms and its tape say y, the new states and all gradients are."""

import torch

from cellwright.step.atoms import COLUMN_BITS
from cellwright.step.evaluate import evaluate


def columns(values, refs):
    """The columns (B, n) that references name."""
    rows = max(value.shape[0] for value in values)
    places = [(int(ref) >> COLUMN_BITS, int(ref) & ((1 << COLUMN_BITS) - 1)) for ref in refs]
    return torch.stack([values[atom].expand(rows, -1)[:, column] for atom, column in places], 1)


def evaluated(step, parameters, x, states, dy, dstates):
    """Outputs by name, and gradients by name, of one step by its atoms."""
    rows = {"x": [x], "state": states, "dy": [dy], "dstate": dstates}

    def weight(number):
        return step.tape.replay([number], lambda name: parameters[name] if isinstance(name, str) else name)[number]

    def leaf(op, detail):
        if op in rows:
            return rows[op][detail]
        if op == "matrix":
            return weight(detail)
        number, repeated = detail
        vector = weight(number)
        for dim in repeated:
            vector = vector.select(dim, 0).unsqueeze(dim)
        return vector.reshape(1, -1)

    values = evaluate(step.atoms, leaf)
    outputs = {f"state{place}": columns(values, refs) for place, refs in enumerate(step.states)}
    outputs["y"] = outputs["state0"] if step.y is None else columns(values, step.y)
    grads = {f"dstate{place}": columns(values, refs) for place, refs in enumerate(step.dstates) if refs is not None}
    if step.dx is not None:
        grads["dx"] = columns(values, step.dx)

    def summed(name):
        if isinstance(name, (str, torch.Tensor)):
            return parameters[name] if isinstance(name, str) else name
        kind, number, detail = name
        if kind == "sum":
            return columns(values, step.sums[number]).expand(len(x), -1).sum(0).view(detail)
        pairs = step.products[number : number + (detail or 1)]
        one = [columns(values, left).T @ columns(values, right) for left, right in pairs]
        return one[0] if detail is None else torch.stack(one)

    found = step.tape.replay(step.dparameters.values(), summed)
    return outputs, grads | {name: found[number] for name, number in step.dparameters.items()}


def stepped(cell, x, states, dy, dstates):
    """The same by the step itself, and by autograd."""
    inputs = [one.detach().requires_grad_() for one in (x, *states)]
    y, new = cell.split_output(cell(*inputs))
    total = (y * dy).sum() + sum((one * grad).sum() for one, grad in zip(new, dstates, strict=True))
    named = dict(cell.named_parameters())
    wanted = [*inputs, *named.values()]
    grads = torch.autograd.grad(total, wanted, allow_unused=True)
    names = ["dx", *(f"dstate{place}" for place in range(len(states))), *named]
    outputs = {f"state{place}": one.detach() for place, one in enumerate(new)} | {"y": y.detach()}
    zeros = [torch.zeros_like(one) if grad is None else grad for one, grad in zip(wanted, grads, strict=True)]
    return outputs, dict(zip(names, zeros, strict=True))


def assert_step_is_its_atoms(step, cell, rows=4, atol=1e-11):
    """Evaluating the atoms gives what the step gives; a gradient that the atoms lack is zero."""
    x = torch.randn(rows, cell.input_size, dtype=torch.float64)
    states = [torch.rand(rows, size, dtype=torch.float64) + 0.1 for size in cell.state_sizes]
    with torch.no_grad():
        y, new = cell.split_output(cell(x, *states))
    rest = torch.randn_like(y), [torch.randn_like(one) for one in new]
    tensors = {name: value.detach() for name, value in [*cell.named_parameters(), *cell.named_buffers()]}
    ours, theirs = evaluated(step, tensors, x, states, *rest), stepped(cell, x, states, *rest)
    assert ours[0].keys() == theirs[0].keys()
    assert ours[1].keys() <= theirs[1].keys()
    for mine, other in zip(ours, theirs, strict=True):
        for name, value in other.items():
            found = mine.get(name, torch.zeros_like(value)).expand_as(value)
            torch.testing.assert_close(found, value, atol=atol, rtol=atol, msg=lambda m, n=name: f"{n}: {m}")
