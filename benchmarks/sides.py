"""The ways to run one and the same cell that length, memory and first step are measured for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from cells import WRITTEN, loop, zeros
from common import CELLS, Shape, Work, as_torch_nn, inference, inputs, training
from torch import Tensor, nn

import cellwright as cw
from cellwright.kernels import choose

NAMES = ("cellwright", "torch.nn", "eager loop")


def side(name: str, cell: str, size: Shape, task: str) -> Work | None:
    """The work of a side; None where it does not have the cell.

    Args:
        name: one of NAMES.
        cell: a name of `CELLS` or `WRITTEN`.
        size: the shape.
        task: "infer" or "train".
    """
    made = {"cellwright": ours, "torch.nn": torch_nn, "eager loop": eager}[name](cell, size)
    if made is None:
        return None
    module, forward = made
    x, dy = inputs(size)
    if task == "infer":
        return inference(lambda: forward(x))
    return training(lambda: forward(x), list(module.parameters()), dy, x)


Made = tuple[nn.Module, Callable[[Tensor], Tensor]]


def ours(cell: str, size: Shape) -> Made:
    """The backend in C."""
    made = CELLS[cell](size.I, size.H) if cell in CELLS else cw.adapt(WRITTEN[cell](size.I, size.H))
    layer = cw.Recurrent(made, backend="c")
    choose(layer.first_cell, "c", torch.empty(0))  # planned and compiled, for an x whose gradient is not wanted
    return layer, lambda x: layer(x)[0]


def torch_nn(cell: str, size: Shape) -> Made | None:
    """The layer of torch.nn."""
    if cell not in CELLS:
        return None
    layer = as_torch_nn(CELLS[cell](size.I, size.H))
    return layer, lambda x: layer(x)[0]


def eager(cell: str, size: Shape) -> Made:
    """A loop in Python, one product for each gate."""
    if cell in WRITTEN:
        module = WRITTEN[cell](size.I, size.H)
        state = zeros(module, size.B)
        return module, lambda x: loop(module, x, state)
    layer = cw.Recurrent(CELLS[cell](size.I, size.H), backend="eager")
    return layer, lambda x: layer(x)[0]


def warm() -> None:
    """What every process does once in its life: torch's threads, its first products, and its first backward from a
    given gradient, for which torch imports sympy (from a loss, as people train, it does not)."""
    a = torch.randn(256, 256, requires_grad=True)
    (a @ a).backward(a.detach())
