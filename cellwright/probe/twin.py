"""Twin: a cell that computes what another does, on its weights, and gives all its named values as its output."""

from __future__ import annotations

from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from cellwright.cells import Cell
from cellwright.step.capture import batch_sizes
from cellwright.step.watch import watched

Named = dict[str, Tensor]
_twins: WeakKeyDictionary[Cell, Cell] = WeakKeyDictionary()


def named_values(cell: Cell, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Named, str, tuple[Tensor, ...]]:
    """One step: every named value, the name of the output y, and the new states.

    >>> from cellwright.cells import GRU
    >>> cell = GRU(3, 5)
    >>> list(named_values(cell, torch.zeros(2, 3), cell.initial_state(2))[0])
    ['r', 'z', 'n', 'h']

    Named are the local variables of `step` at its return that have a row for each row of x, in the order of their
    first lines, and then the states.
    """
    found: Named = {}
    with watched(cell, found.__setitem__):
        result = _original(type(cell)).forward(cell, x, *state)
    y, new = cell.split_output(result)
    known = {id(one) for one in (x, *state, *new)}
    rows = {n: v for n, v in found.items() if id(v) not in known and _has_rows(v, len(x))}
    if all(y is not one for one in (*new, *rows.values())):
        rows["y"] = y
    named = {**{n: v for n, v in rows.items() if n not in cell.state}, **dict(zip(cell.state, new, strict=True))}
    return named, next(name for name, value in named.items() if value is y), new


def _has_rows(value: Tensor, rows: int) -> bool:
    return value.dim() > 0 and value.shape[0] == rows and (value.is_floating_point() or value.dtype == torch.bool)


def twin(cell: Cell) -> Cell:
    """The twin of a cell: its output holds, side by side, the values that `named_in` finds in it."""
    known = _twins.get(cell)
    if known is None or not _same(known, cell):
        known = _twins[cell] = _make(cell)
    return known


def named_in(double: Cell, values: Tensor) -> tuple[Named, str]:
    """The values in a twin's output by name, and the name of the cell's own output."""
    widths: dict[str, int] = double.__dict__["_widths"]
    pieces = values.split(list(widths.values()), -1)  # type: ignore[no-untyped-call]
    return dict(zip(widths, pieces, strict=True)), double.__dict__["_shown"]


def _make(cell: Cell) -> Cell:
    double = object.__new__(_twin_class(type(cell)))  # type: ignore[arg-type]
    double.__dict__.update(cell.__dict__)  # the same tables of weights and modules, and nothing of the cell itself
    widths, shown = _measure(cell)
    double.__dict__.update(_widths=widths, _shown=shown, _sizes=cell.state_sizes)
    return double


def _same(double: Cell, cell: Cell) -> bool:
    """Whether the attributes of a cell are still those its twin was made with."""
    return all(double.__dict__.get(key) is value for key, value in cell.__dict__.items())


@torch.no_grad()
def _measure(cell: Cell) -> tuple[dict[str, int], str]:
    """The columns of every named value, and the name of the output."""
    rows = batch_sizes(cell)[0]
    like = next(cell.parameters(), torch.empty(0))
    with torch.random.fork_rng(devices=[]):
        state = cell.initial_state(rows)
        named, shown, _ = named_values(cell, like.new_zeros(rows, cell.fed_size), state)
    return {name: value[0].numel() for name, value in named.items()}, shown


def _original(kind: type[Cell]) -> Any:
    return getattr(kind, "original", kind)


@cache
def _twin_class(kind: Any) -> type[Cell]:
    class Twin(kind):  # type: ignore[misc]
        original = kind

        def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
            named, _, new = named_values(self, x, state)
            columns = [named[name].reshape(len(x), -1).to(x.dtype) for name in self.__dict__["_widths"]]
            return (torch.cat(columns, 1), *new)

        @property
        def output_size(self) -> int:
            return sum(self.__dict__["_widths"].values())

        @property
        def state_sizes(self) -> tuple[int, ...]:
            sizes: tuple[int, ...] = self.__dict__["_sizes"]
            return sizes

    return Twin
