"""Waits: whether threads that share columns wait for each other between one step back and the next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cellwright.kernels.c.address import REDUCE
from cellwright.kernels.c.columns import Columns
from cellwright.program.graph import aligned
from cellwright.program.loops import Loop
from cellwright.program.memory import computed, reads
from cellwright.program.places import Place, Span, meet

STAGE = "backward"
STEADY = ("sequence", "state")  # of these the step before has other rows, or both only read them


class Access(NamedTuple):
    """What a pass reads or writes, and whether every thread keeps to the columns that it computes."""

    span: Span
    writes: bool
    own: bool


def waits(columns: Columns) -> bool:
    """Whether a step back may only begin once every thread has ended the one after it.

    It need not where the last pass of the one and the first pass of the other touch nothing in common but columns
    that the same thread computes. Within a step, threads wait for each other after every pass but the last.
    """
    passes = columns.program.stages[STAGE]
    if len(passes) < 2:
        return True
    ended, begun = list(_accesses(columns, passes[-1])), list(_accesses(columns, passes[0]))
    return any(_clash(one, other) for one in ended for other in begun)


def goes_ahead(columns: Columns) -> bool:
    """Whether the last pass of a step back can do the first one of the step before, each column once it is there."""
    if waits(columns):
        return False
    first, *_, last = columns.program.stages[STAGE]
    plain = not (first.products or first.scan or first.reductions)
    return plain and bool(last.products) and first.width == last.width


def _clash(one: Access, other: Access) -> bool:
    if not (one.writes or other.writes) or not meet([one.span], [other.span]):
        return False
    return not (one.own and other.own and one.span == other.span)


def _accesses(columns: Columns, loop: Loop) -> Iterator[Access]:
    """All of a pass that may lie in memory of the next step too."""
    made = {*computed(loop), *loop.scalars}
    for arg, plain in reads(columns.graph, loop):
        atom = columns.graph.atoms[arg.atom]
        if atom.op in REDUCE:
            yield _total(arg.atom, writes=False)
        elif atom.op not in ("const", "weight") and arg.atom not in made:
            place = columns.at.place(STAGE, arg.atom)
            own = plain and aligned(arg, loop.width)
            yield from _access(columns, place, arg.width if own else atom.width, False, own)
    for total in loop.reductions:
        yield _total(total, writes=True)
    for written in computed(loop):
        for place in columns.places(STAGE, written):
            width = columns.graph.atoms[written].width
            yield from _access(columns, place, width, True, not loop.scan)


def _access(columns: Columns, place: Place, width: int, writes: bool, own: bool) -> Iterator[Access]:
    """None where steps have rows of their own; what a step leaves and what the next finds is the same memory."""
    if columns.program.buffers[place.buffer].kind not in STEADY:
        yield Access(place._replace(when="").span(width), writes, own)


def _total(atom: int, writes: bool) -> Access:
    """A value of a row that all its columns go into: every thread has a part of it."""
    return Access((f"reduction{atom}", 0, 1), writes, own=False)
