"""Places: the buffers of a program, where values lie in them, and the products after the loops."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Place(NamedTuple):
    """Where an atom lies: a buffer and the column it starts at; a state also says old or new."""

    buffer: str
    column: int
    when: str = ""

    def span(self, width: int) -> Span:
        """The columns of a value of so many."""
        return self.buffer + self.when, self.column, self.column + width


Span = tuple[str, int, int]
"""A buffer (old, new or the only one), and its columns from one to before another."""


def meet(some: Iterable[Span], others: Iterable[Span]) -> bool:
    """Whether any of these columns are among the others."""
    theirs = list(others)
    return any(one[0] == two[0] and one[1] < two[2] and two[1] < one[2] for one in some for two in theirs)


class Buffer(NamedTuple):
    """Memory of one kind; `width` columns a row.

    sequence: T*B rows. state: one (B, width) for every step and the one before. carry: two of (B, width).
    local: rows of one step. reduction: one number a row and thread. sums: added up over rows. weight: a vector.
    """

    name: str
    kind: str
    width: int
    detail: object = None


class Block(NamedTuple):
    """One product after the loops: columns of one buffer against columns of another, summed over all rows."""

    left: Place
    rows: int
    right: Place
    columns: int


class Part(NamedTuple):
    """Where a part of a gradient stands in the results of the blocks."""

    block: int
    row: int
    rows: int
    column: int
    columns: int
