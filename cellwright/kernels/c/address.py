"""Address: where the values of a program lie in memory, as C expressions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cellwright.kernels.c.numbers import number
from cellwright.kernels.c.templates import MEMORY
from cellwright.program.equations import identifiers
from cellwright.program.graph import aligned
from cellwright.program.loops import Loop
from cellwright.program.places import Place
from cellwright.program.program import Program
from cellwright.step.atoms import Read

HELD = ("d", "kept", "hoisted")  # rows of all steps, or of a window of steps where nothing is kept
REDUCE = {  # over the lanes of a vector, of two numbers, of none, of two vectors
    "sum": ("v_sum_n", "add_of", "0", "({} + {})"),
    "max": ("v_max_n", "max_of", "-INFINITY", "v_max({}, {})"),
    "min": ("v_min_n", "least_of", "INFINITY", "v_min({}, {})"),
}


class Addresses:
    """Values of one program by their C names and places."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.graph = program.graph
        self.names = identifiers(program.graph)
        self.reductions = [place for place, atom in enumerate(self.graph.atoms) if atom.op in REDUCE]

    def operand(self, stage: str, arg: Read, loop: Loop, known: Iterable[int], scalar: bool) -> str:
        """What an operation reads: a constant, a value at hand, or memory."""
        atom = self.graph.atoms[arg.atom]
        if atom.op == "const":
            return number(atom.detail)
        if atom.op in REDUCE:
            return f"v_set1({self.total(arg.atom)})"
        if arg.atom in known and (arg.atom in loop.scalars or aligned(arg, loop.width)):
            return self.names[arg.atom]
        pointer, _ = self.row(stage, arg, "row")
        if scalar or arg.step == 0 or (atom.width == 1 and loop.width > 1):
            return f"v_set1(({pointer})[0])"
        if arg.step == 1:
            return f"v_load_n({pointer} + col, lanes)"
        return f"v_gather({pointer} + {arg.step} * col, {arg.step}, lanes)"

    def partial(self, atom: int) -> str:
        """Where this thread adds up a reduction of a row."""
        place = f"({self.reductions.index(atom)} * arg->c.parts + part.me) * arg->c.rows + row + part.shift"
        return f"arg->c.reductions[{place}]"

    def total(self, atom: int) -> str:
        """A reduction of a row, of all threads together."""
        which = self.reductions.index(atom)
        return f"total_{self.graph.atoms[atom].op}(&arg->c, {which}, row + part.shift, part.team)"

    def row(self, stage: str, arg: Read, row: str) -> tuple[str, str]:
        """A pointer to the first column that a read takes in a row, and the distance between rows."""
        atom = self.graph.atoms[arg.atom]
        if atom.op == "weight":
            value, dims = atom.detail
            return f"m.{vector(value, dims)} + {arg.start}", "0"
        place = self.place(stage, arg.atom)
        moved = place._replace(column=place.column + arg.start)
        return self.address(moved, row), str(self.program.buffers[place.buffer].width)

    def place(self, stage: str, atom: int) -> Place:
        """Where a stage finds an atom."""
        made = self.graph.atoms[atom]
        if made.op in ("x", "dy"):
            return Place(made.op, 0)
        if made.op == "state":
            return Place(f"state{made.detail}", 0, "old")
        if made.op == "dstate":
            return Place(f"dstate{made.detail}", 0, "old")
        if atom in self.program.locals[stage]:
            return self.program.locals[stage][atom]
        homes = self.program.homes[atom]
        return next((home for home in homes if home.buffer.startswith("state")), homes[0])

    def address(self, place: Place, row: str) -> str:
        """A pointer to a place in a row."""
        width = self.program.buffers[place.buffer].width
        column = f" + {place.column}" if place.column else ""
        return f"m.{place.buffer}{'_' if place.when else ''}{place.when} + {row} * {width}{column}"

    def is_sequence(self, stage: str, arg: Read) -> bool:
        """Whether a read is of rows that differ from step to step."""
        atom = self.graph.atoms[arg.atom]
        if atom.op in ("const", "weight", *REDUCE):
            return False
        return self.program.buffers[self.place(stage, arg.atom).buffer].kind in ("sequence", "state")

    def memory(self, weights: Sequence[tuple[int, tuple[int, ...]]]) -> str:
        """The pointers of one step, from which rows and columns count."""
        lines: dict[str, str] = {}
        for name, buffer in self.program.buffers.items():
            if buffer.kind == "state":
                state = f"arg->c.state[{name[5:]}]"
                lines[f"{name}_old"] = f"state_old(&arg->c, &{state}, step)"
                lines[f"{name}_new"] = f"arg->{name} + state_at(&arg->c, {state}.kept, step) * {buffer.width}"
            elif buffer.kind == "carry":
                lines[f"{name}_old"] = f"arg->{name} + (step & 1) * arg->c.B * {buffer.width}"
                lines[f"{name}_new"] = f"arg->{name} + (~step & 1) * arg->c.B * {buffer.width}"
            elif buffer.kind == "local":
                lines[name] = f"arg->{name} + part.shift * {buffer.width}"
            elif buffer.kind == "sums":
                lines[name] = f"arg->c.sum + 2 * part.thread * {buffer.width}"
            else:
                first = "held_at(&arg->c, step)" if name in HELD else "arg->c.start[step]"
                lines[name] = f"arg->{name} + {first} * {buffer.width}"
        lines |= {vector(*one): f"arg->{vector(*one)}" for one in weights}
        fields = "".join(f"    real *{name};\n" for name in lines)
        values = "".join(f"        .{name} = {value},\n" for name, value in lines.items())
        return MEMORY.format(fields=fields, values=values)


def vector(value: int, dims: tuple[int, ...]) -> str:
    """The name of a weight that is a vector: value of the tape, dimensions that were dropped."""
    return f"w{value}" + "".join(f"_{d}" for d in dims)
