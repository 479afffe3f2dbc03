"""Columns: what a pass does with each column once its products are there, in C, with the cell's equations above."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import NamedTuple

from cellwright.kernels.c.address import REDUCE, Addresses
from cellwright.kernels.c.templates import COLUMNS
from cellwright.program.equations import equation
from cellwright.program.loops import Loop
from cellwright.program.memory import computed
from cellwright.program.places import Place, Span, meet
from cellwright.program.program import Program
from cellwright.program.split import EARLY, STAGES
from cellwright.step.ops import OPS

MOST_PARTS = 3


class Function(NamedTuple):
    """One C function of a pass: its name and text."""

    name: str
    text: str


class Shared(NamedTuple):
    """What the columns of a row share: values of one column that they read, all that are computed for it, sums."""

    scalars: list[int]
    computed: list[int]
    reductions: list[int]


class Columns:
    """The column functions of a program.

    A value that takes two functions such as exp one after the other (the tanh of a cell state in an LSTM) waits long
    for itself. A pass with products is therefore cut in parts, each done for all rows of a tile before the next; what
    one part hands to another goes through the tile.
    """

    def __init__(self, program: Program, addresses: Addresses) -> None:
        self.program, self.graph, self.at = program, program.graph, addresses
        stages = [(stage, loop) for stage in reversed(STAGES) for loop in program.stages[stage]]
        self.owner = {atom: stage for stage, loop in stages for atom in computed(loop)}  # the first that computes it

    def functions(self, stage: str, name: str, loop: Loop, units: int) -> list[Function]:
        """The C functions of a pass, in the order in which each tile goes through them."""
        parts = self._parts(stage, loop)
        found = []
        for place in range(len(parts)):
            title = f"{name}_at{place + 1 if len(parts) > 1 else ''}"
            lines = [COLUMNS.format(name=title), *self._body(stage, loop, parts, place, units)]
            found.append(Function(title, "\n".join([*lines, "}\n"])))
        return found

    def vectors(self, stage: str, loop: Loop) -> int:
        """How many vectors of each unit lie in the tile of a pass: products, and what parts hand on."""
        return sum(len(product.slots) for product in loop.products) + len(self._handed(loop, self._parts(stage, loop)))

    # Parts.

    def _parts(self, stage: str, loop: Loop) -> list[list[int]]:
        """The atoms of a pass, part by part; one part where a later one would read what an earlier overwrites."""
        if not loop.products:
            return [list(loop.atoms)]
        depth: dict[int, int] = {}
        for atom in sorted({*loop.atoms, *loop.scalars}):
            below = max([0, *(depth.get(arg.atom, 0) for arg in self.graph.atoms[atom].args)])
            depth[atom] = below + OPS[self.graph.atoms[atom].op].costly
        parts: list[list[int]] = [[] for _ in range(MOST_PARTS)]
        for atom in loop.atoms:
            parts[min(max(depth[atom], 1), MOST_PARTS) - 1].append(atom)
        parts = [part for part in parts if part] or [[]]
        return parts if self._apart(stage, loop, parts) else [list(loop.atoms)]

    def _apart(self, stage: str, loop: Loop, parts: list[list[int]]) -> bool:
        """Whether no part reads memory that an earlier part writes."""
        slots = [slot for product in loop.products for slot in product.slots]
        for place, part in enumerate(parts[1:], 1):
            written = [
                span for earlier in (slots, *parts[:place]) for atom in earlier for span in self._written(stage, atom)
            ]
            readers = {*part, *self._scalars(loop, part)}
            read = [span for atom in readers for span in self._read(stage, loop, atom)]
            if meet(written, read):
                return False
        return True

    def _written(self, stage: str, atom: int) -> Iterator[Span]:
        for place in self.places(stage, atom):
            yield place.span(self.graph.atoms[atom].width)

    def _read(self, stage: str, loop: Loop, atom: int) -> Iterator[Span]:
        known = set(computed(loop)) | set(loop.scalars)
        for arg in self.graph.atoms[atom].args:
            if self.graph.atoms[arg.atom].op not in ("const", "weight", *REDUCE) and arg.atom not in known:
                place = self.at.place(stage, arg.atom)
                yield place.span(self.graph.atoms[arg.atom].width)

    def _handed(self, loop: Loop, parts: list[list[int]]) -> list[int]:
        """What later parts read of earlier ones, in the order in which it lies in the tile."""
        where = {atom: place for place, part in enumerate(parts) for atom in part}
        readers = [(place, atom) for atom, place in where.items()] + [(len(parts) - 1, one) for one in loop.reductions]
        read = {
            (a, place)
            for place, atom in readers
            for one in (atom, *self._scalars(loop, [atom]))
            for a in self._args(one)
        }
        return sorted({atom for atom, place in read if where.get(atom, place) < place})

    def _args(self, atom: int) -> Iterator[int]:
        return (arg.atom for arg in self.graph.atoms[atom].args)

    # One function.

    def _body(self, stage: str, loop: Loop, parts: list[list[int]], place: int, units: int) -> Iterator[str]:
        part, handed = parts[place], self._handed(loop, parts)
        first, last = place == 0, place == len(parts) - 1
        slots = self._slots(loop, units)
        mine = [*part, *(loop.reductions if last else ())]
        scalars = self._scalars(loop, mine)
        used = {arg for atom in (*mine, *scalars) for arg in self._args(atom)}
        for slot, where in slots.items():
            if slot in used or (first and any(self._stores(stage, slot))):
                yield f"    const vec {self.at.names[slot]} = {where};"
        for number, atom in enumerate(handed):
            if atom in used and atom not in part:
                yield f"    const vec {self.at.names[atom]} = {self._between(len(slots), number, len(handed), units)};"
        known = {*slots, *handed}
        if shared := self.shared(loop):
            yield from (f"    const vec {self.at.names[atom]} = tile[{at}];" for at, atom in enumerate(shared.scalars))
            known, scalars = known | scalars, set()
        for atom in sorted({*scalars, *part}):
            yield from self._computed(stage, atom, loop, known, atom in scalars)
            known.add(atom)
        for number, atom in enumerate(loop.reductions if last else ()):
            lanes = f"tile[{len(shared.scalars) + number}]" if shared else None
            yield self._reduce(stage, atom, loop, known, lanes)
        for atom in (*(slots if first else ()), *part):
            yield from self._stores(stage, atom)
        for number, atom in enumerate(handed):
            if atom in part:
                yield f"    {self._between(len(slots), number, len(handed), units)} = {self.at.names[atom]};"

    def _computed(self, stage: str, atom: int, loop: Loop, known: set[int], scalar: bool) -> Iterator[str]:
        """An operation, with the cell's equation above it where it has a name."""
        if atom in self.graph.names:
            yield f"    // {self.at.names[atom]} = {equation(self.graph, atom, loop.inside, self.at.names)}"
        made = self.graph.atoms[atom]
        args = [self.at.operand(stage, arg, loop, known, scalar) for arg in made.args]
        yield f"    const vec {self.at.names[atom]} = {OPS[made.op].code.format(*args)};"

    # What all columns of a row have in common.

    def shared(self, loop: Loop) -> Shared | None:
        """Of a pass that goes through its rows one by one what its columns share, if it adds up or reads such sums."""
        mine = [*loop.atoms, *loop.reductions]
        scalars = self._scalars(loop, mine)
        read = {arg for atom in (*mine, *scalars) for arg in self._args(atom)}
        sums = loop.reductions or any(self.graph.atoms[arg].op in REDUCE for arg in read)
        of_pass = any(arg in loop.atoms for atom in scalars for arg in self._args(atom))
        if loop.products or loop.scan or of_pass or not sums:
            return None
        used = {arg for atom in mine for arg in self._args(atom)}
        return Shared(sorted(scalars & used), sorted(scalars), list(loop.reductions))

    def row_begins(self, stage: str, loop: Loop, shared: Shared) -> Iterator[str]:
        """The values of one column, once for a row, and where what is added up begins."""
        known: set[int] = set()
        for atom in shared.computed:
            yield from (f"    {line}\n" for line in self._computed(stage, atom, loop, known, True))
            known.add(atom)
        names = [self.at.names[atom] for atom in shared.scalars]
        names += [f"v_set1({REDUCE[self.graph.atoms[atom].op][2]})" for atom in shared.reductions]
        yield f"        vec shared[] = {{{', '.join(names)}}};\n" if names else "        vec *const shared = 0;\n"

    def row_ends(self, shared: Shared) -> Iterator[str]:
        """What was added up in lanes, as one number."""
        for number, atom in enumerate(shared.reductions, len(shared.scalars)):
            yield f"        {self.at.partial(atom)} = {REDUCE[self.graph.atoms[atom].op][0]}(shared[{number}], VL);\n"

    def _slots(self, loop: Loop, units: int) -> dict[int, str]:
        """Where in the tile each product of a column lies."""
        found, first = {}, 0
        for product in loop.products:
            count = len(product.slots)
            for slot, atom in enumerate(product.slots):
                found[atom] = f"tile[{first * units} * GROUP_ROWS + at * {count} + {slot}]"
            first += count
        return found

    def _between(self, slots: int, number: int, count: int, units: int) -> str:
        return f"tile[{slots * units} * GROUP_ROWS + at * {count} + {number}]"

    def _scalars(self, loop: Loop, atoms: Iterable[int]) -> set[int]:
        """The values of one column that these atoms come from."""
        found: set[int] = set()
        stack = list(atoms)
        while stack:
            new = [arg for arg in self._args(stack.pop()) if arg in loop.scalars and arg not in found]
            found |= set(new)
            stack += new
        return found

    def _reduce(self, stage: str, atom: int, loop: Loop, known: set[int], lanes: str | None) -> str:
        """All values of a column first, then with what came before: lane by lane, or its own lanes first."""
        over, both, none, join = REDUCE[self.graph.atoms[atom].op]
        values = [self.at.operand(stage, arg, loop, known, False) for arg in self.graph.atoms[atom].args]
        value, where = reduce(join.format, values), self.at.partial(atom)
        if lanes:
            return f"    {lanes} = {join.format(lanes, f'v_only({value}, lanes, {none})')};"
        return f"    {where} = {both}({where}, {over}({value}, lanes));"

    # Stores.

    def places(self, stage: str, atom: int) -> Iterator[Place]:
        """Where a stage writes an atom."""
        if self.owner[atom] == stage:
            yield from self.program.homes.get(atom, ())
        if atom in self.program.locals[stage]:
            yield self.program.locals[stage][atom]

    def _stores(self, stage: str, atom: int) -> Iterator[str]:
        name = self.at.names[atom]
        for place in self.places(stage, atom):
            yield f"    {self.guard(place, atom)}v_store_n({self.at.address(place, 'row')} + col, {name}, lanes);"
        if self.owner[atom] == stage and atom in self.program.sums:
            where = f"m.sums + {self.program.sums[atom]} + col"
            yield f"    v_store_n({where}, v_load_n({where}, lanes) + {name}, lanes);"

    def guard(self, home: Place, atom: int) -> str:
        """What is only read by the backward loop is only kept where there will be one."""
        early = self.owner[atom] in EARLY
        return "if (keep) " if early and home.buffer in ("d", "kept") and atom not in self.program.inferred else ""
