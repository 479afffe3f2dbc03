"""Render: Program -> C source, one function for each pass, with the equations of the cell above its lines."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from cellwright.kernels.c.frame import frame
from cellwright.kernels.c.numbers import number
from cellwright.kernels.c.templates import COLUMNS, MEMORY, PLAIN, SCAN, TILED
from cellwright.program.equations import equation, identifiers, read_label
from cellwright.program.graph import aligned
from cellwright.program.loops import Loop, Product
from cellwright.program.memory import computed
from cellwright.program.places import Place
from cellwright.program.program import Program
from cellwright.program.split import STAGES, TIMED
from cellwright.step.atoms import Read
from cellwright.step.ops import OPS

REDUCE = {  # over the lanes of a vector, of two numbers, of none
    "sum": ("v_sum_n", "add_of", "0"),
    "max": ("v_max_n", "max_of", "-INFINITY"),
    "min": ("v_min_n", "least_of", "INFINITY"),
}
HELD = ("d", "kept", "hoisted")  # rows of all steps, or of one step at a time where nothing is kept
UNITS = {1: 4, 2: 2, 3: 4, 5: 4, 6: 2, 7: 4}  # vectors of columns in a panel, by slots: so that tiles come out full


@dataclass(frozen=True)
class Source:
    """Generated C, and the order of the fields of its argument."""

    text: str
    fields: tuple[str, ...]
    packs: tuple[tuple[str, int, int], ...]  # of every packed product: stage, pass, product
    weights: tuple[tuple[int, tuple[int, ...]], ...]  # vectors: value of the tape, dimensions to drop
    reductions: tuple[int, ...]
    units: dict[tuple[str, int], int] = field(default_factory=dict)


def render(program: Program, title: str) -> Source:
    """The C source of a program."""
    return _Renderer(program, title).source()


class _Renderer:
    def __init__(self, program: Program, title: str) -> None:
        self.program = program
        self.graph = program.graph
        self.title = title
        self.names = identifiers(program.graph)
        stages = [(stage, loop) for stage in reversed(STAGES) for loop in program.stages[stage]]
        self.owner = {atom: stage for stage, loop in stages for atom in computed(loop)}  # the first that computes it
        self.weights = sorted({a.detail for a in self.graph.atoms if a.op == "weight"})
        self.reductions = [p for p, a in enumerate(self.graph.atoms) if a.op in REDUCE]
        self.packs = [
            (stage, number_, place)
            for stage in STAGES
            for number_, loop in enumerate(program.stages[stage])
            for place in range(len(loop.products))
        ]
        self.units = {
            (stage, number_): max([UNITS.get(len(product.slots), 1) for product in loop.products], default=1)
            for stage in STAGES
            for number_, loop in enumerate(program.stages[stage])
        }

    def source(self) -> Source:
        fields = self.fields()
        parts = [self.head(fields), self.memory()]
        for stage in STAGES:
            for place, loop in enumerate(self.program.stages[stage]):
                parts.append(self.scan(stage, place, loop) if loop.scan else self.loop(stage, place, loop))
        parts.append(self.run())
        text = "\n".join(parts)
        return Source(text, fields, tuple(self.packs), tuple(self.weights), tuple(self.reductions), self.units)

    # The argument of the library.

    def fields(self) -> tuple[str, ...]:
        pointers = [name for name in self.program.buffers if name != "sums"]
        pointers += [f"w{value}" + "".join(f"_{d}" for d in dims) for value, dims in self.weights]
        pointers += [f"p_{stage}_{place}_{product}" for stage, place, product in self.packs]
        return tuple(pointers)

    def head(self, fields: tuple[str, ...]) -> str:
        real = "#define REAL_DOUBLE\n" if self.program.dtype == torch.float64 else ""
        pointers = "".join(f"    real *{name};\n" for name in fields)
        return f'// {self.title}\n{real}#include "sequence.h"\n\ntypedef struct {{\n    Call c;\n{pointers}}} Args;\n'

    # One pass.

    def loop(self, stage: str, place: int, loop: Loop) -> str:
        name = f"{stage}_{place}"
        fill = {"name": name, "width": loop.width, "units": self.units[stage, place]}
        fill["tile"] = sum(len(product.slots) for product in loop.products) * self.units[stage, place]
        fill["few"] = "arg->c.few" if stage in TIMED else 0
        fill["start"] = "".join(self.initial_reductions(loop))
        fill["products"] = "".join(self.products(stage, place, loop))
        return self.columns(stage, place, loop, name) + (TILED if loop.products else PLAIN).format(**fill)

    def initial_reductions(self, loop: Loop) -> list[str]:
        lines = []
        for atom in loop.reductions:
            start = REDUCE[self.graph.atoms[atom].op][2]
            where = self.partial(atom)
            lines.append(f"    for (long row = part.b0; row < part.b1; row++) {where} = {start};\n")
        return lines

    def partial(self, atom: int) -> str:
        """Where this thread adds up a reduction of a row."""
        place = f"({self.reductions.index(atom)} * arg->c.parts + part.me) * arg->c.rows + row + part.shift"
        return f"arg->c.reductions[{place}]"

    def products(self, stage: str, place: int, loop: Loop) -> list[str]:
        lines, first = self.prefetches(stage, loop), "0"
        for number_, product in enumerate(loop.products):
            total = sum(arg.width for arg in product.inputs)
            slots = len(product.slots)
            pack = f"arg->p_{stage}_{place}_{number_} + panel * U * {slots * total} * VL"
            before = 0
            for term, arg in enumerate(product.inputs):
                row, stride = self.row(stage, arg, "first")
                call = f"multiply(rows, count * {slots}, most, {row}, {stride}, {pack} + {before} * count * {slots} * VL, "
                lines.append(f"            {call}{arg.width}, tile + {first}, {int(term == 0)});\n")
                before += arg.width
            first += f" + {slots} * U * TILE_ROWS"
        return lines

    def prefetches(self, stage: str, loop: Loop) -> list[str]:
        """Hints to fetch, while the products run, what the columns will read that rows keep far apart."""
        reads = {arg for atom in loop.atoms for arg in self.graph.atoms[atom].args if arg.width == loop.width > 1}
        known = set(loop.atoms) | {slot for product in loop.products for slot in product.slots} | set(loop.scalars)
        far = [arg for arg in sorted(reads) if arg.atom not in known and arg.step == 1 and self.is_sequence(stage, arg)]
        if not far:
            return []
        lines = [f"                    __builtin_prefetch({self.row(stage, arg, 'row')[0]} + col);\n" for arg in far]
        head = "            for (long row = first; row < first + rows; row++)\n"
        head += "                for (long col = panel * U * VL; col < (panel * U + count) * VL; col += VL) {\n"
        return [head, *lines, "                }\n"]

    def is_sequence(self, stage: str, arg: Read) -> bool:
        atom = self.graph.atoms[arg.atom]
        if atom.op in ("const", "weight", *REDUCE):
            return False
        return self.program.buffers[self.place(stage, arg.atom).buffer].kind in ("sequence", "state")

    def columns(self, stage: str, place: int, loop: Loop, name: str) -> str:
        lines = [COLUMNS.format(name=name)]
        known: set[int] = set()
        first = "0"
        for product in loop.products:
            lines += self.slots(product, first)
            known |= set(product.slots)
            first += f" + {len(product.slots)} * U * TILE_ROWS".replace("U", str(self.units[stage, place]))
        for atom in sorted({*loop.scalars, *loop.atoms}):
            if atom in self.graph.names:
                lines.append(f"    // {self.names[atom]} = {equation(self.graph, atom, loop, self.names)}")
            args = [self.operand(stage, arg, loop, known, atom in loop.scalars) for arg in self.graph.atoms[atom].args]
            lines.append(f"    const vec {self.names[atom]} = {OPS[self.graph.atoms[atom].op].c.format(*args)};")
            known.add(atom)
        for atom in loop.reductions:
            lines += self.reduce(stage, atom, loop, known)
        for atom in computed(loop):
            lines += self.stores(stage, atom)
        return "\n".join([*lines, "}\n"])

    def slots(self, product: Product, first: str) -> list[str]:
        count = len(product.slots)
        lines = []
        for slot, atom in enumerate(product.slots):
            lines.append(f"    const vec {self.names[atom]} = tile[{first} + at * {count} + {slot}];")
        return lines

    def reduce(self, stage: str, atom: int, loop: Loop, known: set[int]) -> list[str]:
        over, both, _ = REDUCE[self.graph.atoms[atom].op]
        where = self.partial(atom)
        lines = []
        for arg in self.graph.atoms[atom].args:
            value = self.operand(stage, arg, loop, known, False)
            lines.append(f"    {where} = {both}({where}, {over}({value}, lanes));")
        return lines

    def stores(self, stage: str, atom: int) -> list[str]:
        name, lines = self.names[atom], []
        if self.owner[atom] == stage:
            for home in self.program.homes.get(atom, ()):
                to = f"{self.address(home, 'row')} + col"
                lines.append(f"    {self.guard(home, atom)}v_store_n({to}, {name}, lanes);")
            if atom in self.program.sums:
                where = f"m.sums + {self.program.sums[atom]} + col"
                lines.append(f"    v_store_n({where}, v_load_n({where}, lanes) + {name}, lanes);")
        if atom in self.program.locals[stage]:
            to = f"{self.address(self.program.locals[stage][atom], 'row')} + col"
            lines.append(f"    v_store_n({to}, {name}, lanes);")
        return lines

    def guard(self, home: Place, atom: int) -> str:
        """What is only read by the backward loop is only kept where there will be one."""
        early = self.owner[atom] in ("before", "forward")
        return "if (keep) " if early and home.buffer in ("d", "kept") and atom not in self.program.inferred else ""

    # Where values are.

    def operand(self, stage: str, arg: Read, loop: Loop, known: set[int], scalar: bool) -> str:
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

    def total(self, atom: int) -> str:
        return f"total_{self.graph.atoms[atom].op}(&arg->c, {self.reductions.index(atom)}, row + part.shift, part.team)"

    def row(self, stage: str, arg: Read, row: str) -> tuple[str, str]:
        """A pointer to the first column that a read takes in row b, and the distance between rows."""
        atom = self.graph.atoms[arg.atom]
        if atom.op == "weight":
            value, dims = atom.detail
            return f"m.w{value}{''.join(f'_{d}' for d in dims)} + {arg.start}", "0"
        place = self.place(stage, arg.atom)
        moved = place._replace(column=place.column + arg.start)
        return self.address(moved, row), str(self.program.buffers[place.buffer].width)

    def place(self, stage: str, atom: int) -> Place:
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
        width = self.program.buffers[place.buffer].width
        column = f" + {place.column}" if place.column else ""
        return f"m.{place.buffer}{'_' if place.when else ''}{place.when} + {row} * {width}{column}"

    def memory(self) -> str:
        """The pointers of one step, from which rows and columns count."""
        lines: dict[str, str] = {}
        for name, buffer in self.program.buffers.items():
            if buffer.kind == "state":
                for when, step in (("old", "step - 1"), ("new", "step")):
                    row = f"state_at(&arg->c, arg->c.state[{name[5:]}].kept, {step})"
                    lines[f"{name}_{when}"] = f"arg->{name} + {row} * {buffer.width}"
            elif buffer.kind == "carry":
                lines[f"{name}_old"] = f"arg->{name} + (step & 1) * arg->c.B * {buffer.width}"
                lines[f"{name}_new"] = f"arg->{name} + (~step & 1) * arg->c.B * {buffer.width}"
            elif buffer.kind == "local":
                lines[name] = f"arg->{name} + part.shift * {buffer.width}"
            elif buffer.kind == "sums":
                lines[name] = f"arg->c.sum + 2 * part.thread * {buffer.width}"
            else:
                held = " * arg->c.hold" if name in HELD else ""
                lines[name] = f"arg->{name} + arg->c.start[step]{held} * {buffer.width}"
        for value, dims in self.weights:
            name = f"w{value}" + "".join(f"_{d}" for d in dims)
            lines[name] = f"arg->{name}"
        fields = "".join(f"    real *{name};\n" for name in lines)
        values = "".join(f"        .{name} = {value},\n" for name, value in lines.items())
        return MEMORY.format(fields=fields, values=values)

    def scan(self, stage: str, place: int, loop: Loop) -> str:
        """A running sum over the columns of a row: rows are split, never columns."""
        atom = loop.atoms[0]
        args = self.graph.atoms[atom].args
        targets = [("", self.program.locals[stage][atom])] if atom in self.program.locals[stage] else []
        homes = self.program.homes.get(atom, ()) if self.owner[atom] == stage else ()
        targets += [(self.guard(home, atom), home) for home in homes]
        writes = " ".join(f"{guard}({self.address(target, 'row')})[to] = sum;" for guard, target in targets)
        lines = []
        for arg in args:
            from_, _ = self.row(stage, arg, "row")
            walk = f"for (long col = 0; col < {arg.width}; col++, to++)"
            lines.append(f"        {walk} {{ sum += ({from_})[{arg.step} * col]; {writes} }}\n")
        labels = ", ".join(read_label(self.graph, arg, self.names) for arg in args)
        return SCAN.format(name=f"{stage}_{place}", made=self.names[atom], read=labels, lines="".join(lines))

    # The whole.

    def run(self) -> str:
        counts = {stage: len(self.program.stages[stage]) for stage in STAGES}
        return frame(counts, self.program.buffers["sums"].width)
