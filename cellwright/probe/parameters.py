"""parameter_table: every weight of a cell or layer, listed by gate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from cellwright.cells import Cell
from cellwright.cells.stacked import Stacked, StackedGRU, StackedLSTM, StackedRNN

# How torch.nn's modules stack their gates, by the first letters of their mode or class, and what their weights do.
STACKED: dict[str, type[Stacked]] = {"LSTM": StackedLSTM, "GRU": StackedGRU, "RNN": StackedRNN}
ROLES = {
    "weight_ih": "input weight",
    "weight_hh": "recurrent weight",
    "weight_hr": "projection",
    "bias_ih": "bias",
    "bias_hh": "recurrent bias",
    "h0": "first state",
    "c0": "first state",
}
WHOLE = ("weight_hr", "h0", "c0")  # are not split by gate


@dataclass(frozen=True)
class Row:
    """One parameter, or a gate's share of it: where it is, its gate, what it does there, its shape and norms.

    `gradient` is the norm of its gradient, None before there is one.
    """

    name: str
    gate: str
    role: str
    shape: tuple[int, ...]
    norm: float
    gradient: float | None = None

    @property
    def count(self) -> int:
        """How many numbers the parameter holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class ParameterTable:
    """The rows of a table of parameters; str() draws it."""

    rows: tuple[Row, ...]

    @property
    def count(self) -> int:
        """How many numbers all parameters hold together."""
        return sum(row.count for row in self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __str__(self) -> str:
        head = ["parameter", "gate", "role", "shape", "count", "norm"]
        body = [
            [row.name, row.gate, row.role, " x ".join(map(str, row.shape)), f"{row.count:,}", f"{row.norm:.4g}"]
            for row in self.rows
        ]
        foot = ["all", "", "", "", f"{self.count:,}", ""]
        if any(row.gradient is not None for row in self.rows):
            head, foot = [*head, "gradient"], [*foot, ""]
            for line, row in zip(body, self.rows, strict=True):
                line.append("" if row.gradient is None else f"{row.gradient:.4g}")
        widths = [max(len(line[column]) for line in (head, *body, foot)) for column in range(len(head))]
        return "\n".join(_line(line, widths) for line in (head, *body, foot))


def parameter_table(module: nn.Module) -> ParameterTable:
    """List every parameter of a cell, layer or model, by gate.

    >>> from cellwright.cells import RNN, initialise
    >>> cell = RNN(2, 3)
    >>> initialise(cell, "tutorial", 3)
    >>> [(row.name, row.gate, row.role, row.shape) for row in parameter_table(cell)][0]
    ('W_xh', 'hidden state', 'input weight', (2, 3))
    >>> parameter_table(cell).count
    18

    The stacked weights of torch.nn, and of the layers in its place, are split: one row for each gate.

    >>> table = parameter_table(nn.GRUCell(2, 3))
    >>> [(row.name, row.gate, row.shape) for row in table][:2]
    [('weight_ih[r]', 'reset gate', (3, 2)), ('weight_ih[z]', 'update gate', (3, 2))]

    Args:
        module: a Cell, a layer, or any module that holds some.

    Returns:
        A table to print or to loop over, with the norms of gradients where there are some; a weight that belongs
        to no gate has an empty `gate`.
    """
    return ParameterTable(tuple(row for name, value in module.named_parameters() for row in _rows(module, name, value)))


def _rows(module: nn.Module, name: str, value: Tensor) -> Iterator[Row]:
    path, _, own_name = name.rpartition(".")
    owner = module.get_submodule(path)
    gates = _stacked_gates(owner)
    if gates is None:
        gate, role = owner.roles.get(own_name, ("", "")) if isinstance(owner, Cell) else ("", "")
        yield _row(name, owner.gates.get(gate, gate) if isinstance(owner, Cell) else "", role, value, value.grad)
        return
    kind = own_name.partition("_l")[0]
    if kind in WHOLE:
        yield _row(name, "", ROLES[kind], value, value.grad)
        return
    grads = [None] * len(gates) if value.grad is None else value.grad.chunk(len(gates))
    for (gate, words), piece, grad in zip(gates.items(), value.chunk(len(gates)), grads, strict=True):
        yield _row(f"{name}[{gate}]", words, ROLES.get(kind, ""), piece, grad)


def _stacked_gates(owner: nn.Module) -> dict[str, str] | None:
    """The gates whose rows the weights of a module stack, in their order; None where they stack none."""
    if isinstance(owner, Stacked):
        return owner.gates
    if not isinstance(owner, (nn.RNNBase, nn.RNNCellBase)):
        return None
    mode = owner.mode if isinstance(owner, nn.RNNBase) else type(owner).__name__
    return next((cell.gates for start, cell in STACKED.items() if mode.startswith(start)), None)


def _row(name: str, gate: str, role: str, value: Tensor, grad: Tensor | None) -> Row:
    norm = None if grad is None else float(grad.norm())
    return Row(name, gate, role, tuple(value.shape), float(value.detach().norm()), norm)


def _line(values: list[str], widths: list[int]) -> str:
    cells = [v.rjust(w) if k > 3 else v.ljust(w) for k, (v, w) in enumerate(zip(values, widths, strict=True))]
    return "  ".join(cells).rstrip()
