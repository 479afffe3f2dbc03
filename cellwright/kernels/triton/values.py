"""Values: where those of a program lie in memory, and how kernels read and write them, as expressions in Triton."""

from __future__ import annotations

import keyword
import math
from collections.abc import Container, Iterator

from cellwright.program.equations import identifiers
from cellwright.program.graph import aligned
from cellwright.program.loops import Loop
from cellwright.program.memory import computed
from cellwright.program.places import Place
from cellwright.program.program import Program
from cellwright.program.split import EARLY, STAGES
from cellwright.step.atoms import Read

FOLDS = {"sum": ("tl.sum({}, 1, keep_dims=True)", "({} + {})", "0.0")}  # of a tile, of two numbers, of none
FOLDS |= {
    name: (f"tl.reduce({{}}, 1, v_{name}, keep_dims=True)", f"v_{name}({{}}, {{}})", f'float("{sign}inf")')
    for name, sign in (("max", "-"), ("min", ""))
}
LOCALS = """
tl triton t part group seat row begin count ahead alive stays following afresh reset acc col inside here goal step B T
take take_vector put hold weights multiply meet leave parts_of total_sum total_max total_min range float first last
"""  # words that mean something in a generated kernel
RESERVED = frozenset((*keyword.kwlist, *LOCALS.split()))
SUMMED = "summed"  # a buffer for what is added up over all rows and lies nowhere else


class Values:
    """The values of one program by their names and places."""

    def __init__(self, program: Program) -> None:
        self.program, self.graph = program, program.graph
        names = identifiers(program.graph, RESERVED)
        self.names = {atom: name if not name.startswith(("at_", "to_")) else f"{name}_" for atom, name in names.items()}
        self.folds = [place for place, atom in enumerate(self.graph.atoms) if atom.op in FOLDS]
        stages = [(stage, loop) for stage in reversed(STAGES) for loop in program.stages[stage]]
        self.owner = {atom: stage for stage, loop in stages for atom in computed(loop)}  # the first that computes it
        self.widths = {name: buffer.width for name, buffer in program.buffers.items() if name != "sums"}
        self.summed = self._summed()

    def _summed(self) -> dict[int, Place]:
        """Where every value that is added up over all rows lies in the end."""
        found: dict[int, Place] = {}
        self.widths[SUMMED] = 0
        for atom in self.program.sums:
            home = next((home for home in self.program.homes.get(atom, ()) if home.buffer == "d"), None)
            if home is None:
                home = Place(SUMMED, self.widths[SUMMED])
                self.widths[SUMMED] += self.graph.atoms[atom].width
            found[atom] = home
        return found

    # Reads.

    def operand(self, stage: str, arg: Read, loop: Loop, known: Container[int]) -> str:
        """What an operation reads: a constant, a value at hand, or memory."""
        atom = self.graph.atoms[arg.atom]
        if atom.op == "const":
            return constant(atom.detail)
        if atom.op in FOLDS:
            return f"total_{atom.op}(at_parts, {self.folds.index(arg.atom)}, PARTS, SPREAD, ROWS, seat, alive, REAL)"
        if arg.atom in known and (arg.atom in loop.scalars or aligned(arg, loop.width)):
            return self.names[arg.atom]
        single = arg.step == 0 or (atom.width == 1 and loop.width > 1) or arg.atom in loop.scalars
        return self.read(stage, arg, str(arg.start) if single else _columns(arg), "alive" if single else "here")

    def read(self, stage: str, arg: Read, col: str, mask: str) -> str:
        """A read of memory at these columns of the atom."""
        atom = self.graph.atoms[arg.atom]
        if atom.op == "weight":
            return f"take_vector(at_{vector(*atom.detail)}, {col}, {'inside' if mask == 'here' else True}, REAL)"
        place = self.place(stage, arg.atom)
        where = f"{_sum(col, place.column)}, {mask}, REAL"
        found = f"take({self.matrix(place)}, {where})"
        if not place.buffer.startswith("dstate"):
            return found
        return f"tl.where(stays, {found}, take(at_dlast{place.buffer[6:]}, seat, {self.widths[place.buffer]}, {where}))"

    def term(self, stage: str, arg: Read) -> str:
        """The rows of one term of a product: pointer, rows, width, first column, step, columns."""
        atom = self.graph.atoms[arg.atom]
        if atom.op == "weight":
            return f"at_{vector(*atom.detail)}, seat * 0, 0, {arg.start}, {arg.step}, {arg.width}"
        place = self.place(stage, arg.atom)
        return f"{self.matrix(place)}, {place.column + arg.start}, {arg.step}, {arg.width}"

    def place(self, stage: str, atom: int) -> Place:
        """Where a stage finds an atom."""
        made = self.graph.atoms[atom]
        if made.op in ("x", "dy"):
            return Place(made.op, 0)
        if made.op in ("state", "dstate"):
            return Place(f"{made.op}{made.detail}", 0, "old")
        if atom in self.program.locals[stage]:
            return self.program.locals[stage][atom]
        homes = self.program.homes[atom]
        return next((home for home in homes if home.buffer.startswith("state")), homes[0])

    def matrix(self, place: Place) -> str:
        """Pointer, rows and width of what a place is in."""
        name, width = place.buffer, self.widths[place.buffer]
        if name.startswith("dstate"):
            turn = "t & 1" if place.when == "old" else "(t & 1) ^ 1"
            return f"at_{name} + ({turn}) * B * {width}, seat, {width}"
        if name.startswith("state"):
            return f"at_{name}_{place.when}, row, {width}"
        if name == "scratch":  # two in turn: a program may begin a step before all have ended the one before
            return f"at_{name} + (t & 1) * B * {width}, seat, {width}"
        return f"at_{name}, row, {width}"

    # Writes.

    def places(self, stage: str, atom: int) -> Iterator[Place]:
        """Where a value that this stage computes is written."""
        if self.owner.get(atom) == stage:
            yield from self.program.homes.get(atom, ())
            if atom in self.summed and self.summed[atom].buffer == SUMMED:
                yield self.summed[atom]
        if atom in self.program.locals[stage]:
            yield self.program.locals[stage][atom]

    def stores(self, stage: str, atom: int) -> Iterator[str]:
        """The statements that write a value to all its places."""
        for place in self.places(stage, atom):
            yield from self._store(stage, place, atom)

    def _store(self, stage: str, place: Place, atom: int) -> Iterator[str]:
        name, col = self.names[atom], _sum("col", place.column)
        early = stage in EARLY and place.buffer in ("d", "kept")
        if early and atom not in self.program.inferred:
            yield "if KEEP:"
            yield f"    put({self.matrix(place)}, {col}, here, {name})"
            return
        carry = place.buffer.startswith("dstate")
        value = f"tl.where(reset, 0.0, {name})" if carry else name
        yield f"put({self.matrix(place)}, {col}, here, {value})"
        if place.buffer.startswith("state"):
            width = self.widths[place.buffer]
            yield "if APART:"
            target = f"at_{place.buffer}_old, following, {width}, {col}, stays & inside"
            yield f"    put({target}, tl.where(afresh, 0.0, {name}))"


def constant(value: float) -> str:
    """A number in Triton, in the type of the computation."""
    if math.isnan(value) or math.isinf(value):
        return f'tl.full((1, 1), float("{value}"), REAL)'
    return f"tl.full((1, 1), {value!r}, REAL)"


def vector(value: int, dims: tuple[int, ...]) -> str:
    """The name of a weight that is a vector: value of the tape, dimensions that were dropped."""
    return f"w{value}" + "".join(f"_{d}" for d in dims)


def _columns(arg: Read) -> str:
    return _sum("col" if arg.step == 1 else f"{arg.step} * col", arg.start)


def _sum(col: str, more: int) -> str:
    return f"{col} + {more}" if more and col != "0" else str(more) if col == "0" else col
