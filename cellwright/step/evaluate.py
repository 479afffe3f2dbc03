"""Evaluate: atoms on numbers, one after the other: what they mean, and the oracle of everything that plans them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cellwright.step.atoms import Atom, Read

FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "copy": lambda a: a,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "where": lambda a, b, c: torch.where(a != 0, b, c),
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "erf": torch.erf,
    **{
        name: getattr(torch, name)
        for name in ("neg", "abs", "sign", "floor", "ceil", "round", "trunc", "sqrt", "rsqrt")
    },
    **{name: getattr(torch, name) for name in ("minimum", "maximum", "reciprocal", "tanh", "exp", "expm1", "log")},
    **{
        name: getattr(torch, name)
        for name in ("log1p", "sin", "cos", "atan", "pow", "eq", "ne", "lt", "le", "gt", "ge")
    },
}


def evaluate(atoms: Sequence[Atom], leaves: Callable[[str, Any], Tensor]) -> list[Tensor]:
    """The value (B, width) of every atom, or (1, width) where it is the same for every row.

    Args:
        atoms: in an order in which each comes after those it reads.
        leaves: gives a leaf by its operation and detail: rows (B, columns), a weight, or the matrix of a product.
    """
    values: list[Tensor] = []

    def read(arg: Read) -> Tensor:
        places = arg.start + arg.step * torch.arange(arg.width)
        return values[arg.atom][:, places]

    for atom in atoms:
        args = [read(arg) for arg in atom.args]
        if atom.op == "const":
            value = torch.tensor([[atom.detail]], dtype=torch.float64)
        elif atom.op == "mm":
            terms = [a @ _matrix(leaves, a, w, atom.width) for a, w in zip(args, atom.detail, strict=True)]
            value = sum(terms[1:], terms[0])
        elif atom.op == "sum":
            value = _beside(args).sum(1, keepdim=True)
        elif atom.op in ("max", "min"):
            value = getattr(_beside(args), f"a{atom.op}")(1, keepdim=True)
        elif atom.op == "cumsum":
            value = _beside(args).cumsum(1)
        elif atom.op in FUNCTIONS:
            value = FUNCTIONS[atom.op](*args)
        else:
            value = leaves(atom.op, atom.detail)
        values.append(value.to(torch.float64))
    return values


def _beside(args: list[Tensor]) -> Tensor:
    """Values side by side; those that are the same for every row have one."""
    rows = max(arg.shape[0] for arg in args)
    return torch.cat([arg.expand(rows, -1) for arg in args], 1)


def _matrix(leaves: Callable[[str, Any], Tensor], rows: Tensor, weight: Any, columns: int) -> Tensor:
    matrix = leaves("matrix", weight.value)[weight.place]
    matrix = matrix.t() if weight.transposed else matrix
    return matrix[weight.row : weight.row + rows.shape[1], weight.column : weight.column + columns]
