"""parameter_table: every weight of a cell or layer, listed by gate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from cellwright.cells import Cell


@dataclass(frozen=True)
class Row:
    """One parameter: where it is, which gate it belongs to, what it does there, its shape and norm."""

    name: str
    gate: str
    role: str
    shape: tuple[int, ...]
    norm: float

    @property
    def count(self) -> int:
        """How many numbers the parameter holds."""
        total = 1
        for size in self.shape:
            total *= size
        return total


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
        head = ("parameter", "gate", "role", "shape", "count", "norm")
        body = [
            (row.name, row.gate, row.role, " x ".join(map(str, row.shape)), f"{row.count:,}", f"{row.norm:.4g}")
            for row in self.rows
        ]
        foot = ("all", "", "", "", f"{self.count:,}", "")
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

    Args:
        module: a Cell, a Recurrent, or any module that holds some.

    Returns:
        A table to print or to loop over; a weight that belongs to no gate has an empty `gate`.
    """
    return ParameterTable(tuple(_row(module, name, value) for name, value in module.named_parameters()))


def _row(module: nn.Module, name: str, value: Tensor) -> Row:
    path, _, own_name = name.rpartition(".")
    owner = module.get_submodule(path)
    gate, role = owner.roles.get(own_name, ("", "")) if isinstance(owner, Cell) else ("", "")
    words = owner.gates.get(gate, gate) if isinstance(owner, Cell) else ""
    return Row(name, words, role, tuple(value.shape), float(value.detach().norm()))


def _line(values: tuple[str, ...], widths: list[int]) -> str:
    numbers = {4, 5}
    cells = [v.rjust(w) if k in numbers else v.ljust(w) for k, (v, w) in enumerate(zip(values, widths, strict=True))]
    return "  ".join(cells).rstrip()
