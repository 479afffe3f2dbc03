"""Stepper: one cell, one step a call, its state in place."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from cellwright.cells import Cell
from cellwright.kernels.c.run import Fused
from cellwright.kernels.c.step import Step
from cellwright.kernels.choose import choose
from cellwright.kernels.function import Unrolled

State = tuple[Tensor, ...]


class Stepper(Protocol):
    """A cell that remembers its state."""

    state: State
    first: State

    def __call__(self, x: Tensor) -> Tensor: ...


class Plain:
    """The step in PyTorch."""

    def __init__(self, cell: Cell, weights: dict[str, Tensor], first: State) -> None:
        self.cell = Unrolled(cell)
        self.weights = {f"cell.{name}": weight.detach().clone() for name, weight in weights.items()}
        self.first, self.state = first, tuple(s.clone() for s in first)

    def __call__(self, x: Tensor) -> Tensor:
        y, *new = torch.func.functional_call(self.cell, self.weights, (x.unsqueeze(0), self.state))
        for old, one in zip(self.state, new, strict=True):
            old.copy_(one)
        found: Tensor = y[0]
        return found


def stepper(cell: Cell, weights: dict[str, Tensor], backend: str, first: State) -> Stepper:
    """The fastest stepper of a cell.

    Args:
        cell: the cell.
        weights: its weights by name, as they are now.
        backend: as for `choose`.
        first: the state to begin with, each (B, H).
    """
    if backend != "torch":
        entry = choose(cell, backend, first[0]).entry
        if entry is not None and isinstance(entry.fused, Fused):
            return Step(entry.fused, {name: weight.detach() for name, weight in weights.items()}, first)
    return Plain(cell, weights, first)
