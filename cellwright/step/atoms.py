"""Atoms: the values of one step as runs of columns, each made by one operation from the columns of others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Refs = NDArray[np.int64]
COLUMN_BITS = 28
LEAVES = ("x", "state", "dy", "dstate", "weight", "const")


class Read(NamedTuple):
    """Columns start, start + step, ... of an atom; step 0 repeats one column."""

    atom: int
    start: int
    step: int
    width: int


class Weight(NamedTuple):
    """A matrix (K, N) of the tape: which of its values, which one of a batch of matrices, first row and column."""

    value: int
    place: tuple[int, ...]
    transposed: bool
    row: int
    column: int


class Atom(NamedTuple):
    """One operation on columns: row-wise for every row of the batch, and for every step of the sequence.

    `detail` is a leaf's name or number, a constant, or the weights of a product, one for each argument.
    """

    op: str
    width: int
    args: tuple[Read, ...] = ()
    detail: Any = None


@dataclass
class Atoms:
    """A growing list of atoms in which equal ones are found again."""

    items: list[Atom] = field(default_factory=list)
    wheres: list[str] = field(default_factory=list)
    known: dict[Atom, int] = field(default_factory=dict)

    def add(self, atom: Atom, where: str = "") -> int:
        if atom not in self.known:
            self.known[atom] = len(self.items)
            self.items.append(atom)
            self.wheres.append(where)
        return self.known[atom]

    def refs(self, atom: int, *shape: int) -> Refs:
        """References to all columns of an atom, in this shape (default: one row)."""
        width = self.items[atom].width
        return (atom << COLUMN_BITS) + np.arange(width, dtype=np.int64).reshape(shape or (width,))

    def constant(self, value: float) -> int:
        """The reference to a number."""
        return self.add(Atom("const", 1, (), float(value))) << COLUMN_BITS

    def elementwise(self, op: str, operands: list[Refs], where: str) -> Refs:
        """References to op(operands), column by column; every run of neighbours becomes one atom."""
        result = np.empty(operands[0].shape, np.int64)
        for start, stop in runs(operands):
            args = tuple(read(refs[start:stop]) for refs in operands)
            result[start:stop] = self.refs(self.add(Atom(op, stop - start, args), where))
        return result


def runs(operands: list[Refs]) -> list[tuple[int, int]]:
    """The longest stretches over which every operand walks through one atom with one step.

    >>> a, b = np.array([5, 6, 7, 1 << 40]), np.array([9, 9, 9, 9])
    >>> runs([a, b])
    [(0, 3), (3, 4)]
    """
    stacked = np.stack(operands)  # (operands, columns)
    count = stacked.shape[1]
    steps = np.diff(stacked, axis=1)
    inside = (np.diff(stacked >> COLUMN_BITS, axis=1) == 0).all(axis=0)
    same = np.concatenate([[False], (np.diff(steps, axis=1) == 0).all(axis=0)]) if count > 1 else np.zeros(0, bool)
    found, start = [], 0
    while start < count:
        stop = start + 1
        if stop < count and inside[start]:
            ends = np.flatnonzero(~(inside[start + 1 :] & same[start + 1 :]))
            stop = start + 2 + int(ends[0]) if len(ends) else count
        found.append((start, stop))
        start = stop
    return found


def read(refs: Refs) -> Read:
    """One stretch of references as a read."""
    first = int(refs[0])
    step = int(refs[1]) - first if len(refs) > 1 else 1
    return Read(first >> COLUMN_BITS, first & ((1 << COLUMN_BITS) - 1), step, len(refs))


def segments(refs: Refs) -> tuple[Read, ...]:
    """References in a row as as few reads as they need."""
    flat = refs.reshape(-1)
    return tuple(read(flat[start:stop]) for start, stop in runs([flat]))
