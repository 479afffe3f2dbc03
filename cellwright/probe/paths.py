"""Paths: the share of d s_t / d s_{t-1} that goes through each of the cell's named values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cellwright.cells import Cell
from cellwright.layers.sequences import Part, State
from cellwright.probe.twin import named_values

DIRECT = "direct"


def path_shares(part: Part, x: Tensor, before: State, steps: int) -> dict[str, dict[str, float]]:
    """Of every state, the mean share of each path, at `steps` steps spread evenly; they sum to 1.

    A path's share is <J_path, J> / <J, J> of the matrices' inner products: what it adds along the whole.

    Args:
        part: the cell.
        x: inputs (T, B, I).
        before: the states before every step, each (T, B, columns).
        steps: at how many steps.
    """
    T = len(x)
    chosen = sorted({int(t) for t in torch.linspace(min(1, T - 1), T - 1, steps).round().tolist()} - {0})
    result: dict[str, dict[str, float]] = {}
    for state in part.cell.state if chosen else ():
        shares = [_shares(step_paths(part, x, before, t, state)) for t in chosen]
        names = dict.fromkeys(name for one in shares for name in one)
        result[state] = {name: sum(float(one.get(name, 0.0)) for one in shares) / len(shares) for name in names}
    return result


def _shares(paths: dict[str, Tensor]) -> dict[str, float]:
    whole = sum(paths.values(), torch.zeros(()))
    norm = (whole * whole).sum((1, 2)).clamp_min(torch.finfo(whole.dtype).tiny)
    return {name: float(((path * whole).sum((1, 2)) / norm).mean()) for name, path in paths.items()}


def step_paths(part: Part, x: Tensor, before: State, t: int, state: str) -> dict[str, Tensor]:
    """d s_t / d s_{t-1} of one state, taken apart: of each path a matrix (B, H, H), their sum is the whole.

    The derivative is total: what the step before made of s_{t-1}, as h_{t-1} = o tanh(c_{t-1}) in an LSTM, moves with
    it. A path is named after the last named value on the way to s_t; "direct" has none.

    Args:
        part: the cell.
        x: inputs (T, B, I).
        before: the states before every step, each (T, B, columns).
        t: the step, from 1.
        state: the state's name.
    """
    B, place = x.shape[1], part.cell.state.index(state)
    H = before[place].shape[2]

    def wide(rows: Tensor) -> Tensor:  # every row of the batch once for each row of the matrix
        return rows.repeat_interleave(H, 0)

    with torch.enable_grad():
        first = tuple(wide(s[t - 1]).requires_grad_() for s in before)
        _, middle = _named(part, wide(x[t - 1]), first)
        named, last = _named(part, wide(x[t]), middle)
    source, target = middle[place], last[place]
    rows = torch.eye(H, dtype=x.dtype, device=x.device).repeat(B, 1)  # (B * H, H)
    values = {name: value for name, value in named.items() if value is not target and value.requires_grad}
    reached: dict[str, Tensor] = {}
    handles = [_hook(value, partial(_stop, reached, name)) for name, value in values.items()]
    grads = torch.autograd.grad(target, [source, *values.values()], rows, retain_graph=True, allow_unused=True)
    for handle in handles:
        handle.remove()
    paths = {DIRECT: grads[0]}
    for name, tangent in reached.items():
        paths[name] = torch.autograd.grad(values[name], source, tangent, retain_graph=True, allow_unused=True)[0]
    return {name: path.view(B, H, H) for name, path in paths.items() if path is not None and path.any()}


def _stop(reached: dict[str, Tensor], name: str, gradient: Tensor) -> Tensor:
    """Note the gradient that reaches a value, and let it go no further."""
    reached[name] = gradient
    return torch.zeros_like(gradient)


def _hook(value: Tensor, function: Callable[[Tensor], Tensor]) -> Any:
    return value.register_hook(function)  # type: ignore[no-untyped-call]


def _named(part: Part, x: Tensor, state: State) -> tuple[dict[str, Tensor], State]:
    weights = {f"cell.{name}": weight for name, weight in part.weights.items()}
    named, new = torch.func.functional_call(_Naming(part.cell), weights, (x, state))
    return named, new


class _Naming(nn.Module):
    """One step of a cell with its named values, whose weights are put in from outside."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, state: State) -> tuple[dict[str, Tensor], State]:
        named, _, new = named_values(self.cell, x, state)
        return named, new
