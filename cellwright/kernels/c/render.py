"""Render: Program -> C source, one function for each pass, with the equations of the cell above its lines."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from cellwright.kernels.c.frame import TOTALS, frame
from cellwright.kernels.c.text import equation, identifiers, number, read_label
from cellwright.program.loops import Loop, Product
from cellwright.program.memory import computed
from cellwright.program.program import Place, Program
from cellwright.program.split import STAGES
from cellwright.step.atoms import LEAVES, Read
from cellwright.step.ops import OPS

REDUCE = {"sum": ("v_sum_n", "add_of", "0"), "max": ("v_max_n", "max_of", "-INFINITY"), "min": ("v_min_n", "least_of", "INFINITY")}
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
        self.owner = {atom: stage for stage in reversed(STAGES) for loop in program.stages[stage] for atom in computed(loop)}
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
        parts = [self.head(fields)]
        for stage in STAGES:
            for place, loop in enumerate(self.program.stages[stage]):
                parts.append(self.scan(stage, place, loop) if loop.scan else self.loop(stage, place, loop))
        parts.append(self.run())
        text = "\n".join(parts)
        return Source(text, fields, tuple(self.packs), tuple(self.weights), tuple(self.reductions), self.units)

    # The argument of the library.

    def fields(self) -> tuple[str, ...]:
        pointers = [f"{name}" for name in self.program.buffers]
        pointers += [f"w{value}" + "".join(f"_{d}" for d in dims) for value, dims in self.weights]
        pointers += [f"p_{stage}_{place}_{product}" for stage, place, product in self.packs]
        return tuple(pointers)

    def head(self, fields: tuple[str, ...]) -> str:
        real = "#define REAL_DOUBLE\n" if self.program.dtype == torch.float64 else ""
        depths = " ".join(f"depth{k}," for k in range(len(self.program.widths))).rstrip(",")
        return (
            f"// {self.title}\n{real}#include \"loops.h\"\n\n"
            "typedef struct {\n"
            f"    long T, B, job, columns, rows, packs, blocks, parts, contract_size, {depths};\n"
            "    int (*thread)(void), (*threads)(void);\n"
            "    Barrier *barrier;\n    const Pack *pack;\n    const Block *block;\n    real *contract, *reductions;\n"
            + "".join(f"    real *{name};\n" for name in fields)
            + "} Args;\n"
            + TOTALS
        )

    # One pass.

    def loop(self, stage: str, place: int, loop: Loop) -> str:
        name = f"{stage}_{place}"
        body = self.body(stage, place, loop, name)
        units = self.units[stage, place]
        lines = [f"static void {name}(const Args *a, long t, Range r, const int keep) {{", "    (void)keep;"]
        lines += self.initial_reductions(loop)
        width = loop.width
        if loop.products:
            vectors = sum(len(product.slots) for product in loop.products) * units
            lines += [
                f"    enum {{ W = {width}, VECTORS = (W + VL - 1) / VL, U = {units} }};",
                f"    vec s[{vectors} * TILE_ROWS];",
                "    const long panels = ceil_div(VECTORS, U), blocks = ceil_div(r.b1 - r.b0, TILE_ROWS);",
                "    for (long p = panels * r.me / r.team; p < panels * (r.me + 1) / r.team; p++) {",
                "        const long count = min_of(U, VECTORS - p * U);",
                "        for (long k = 0; k < blocks; k++) {",
                "            const long b0 = r.b0 + (r.b1 - r.b0) * k / blocks;",
                "            const long rows = r.b0 + (r.b1 - r.b0) * (k + 1) / blocks - b0;",
                *self.products(stage, place, loop),
                "            for (long q = 0; q < rows; q++)",
                "                for (long u = 0; u < count; u++) {",
                "                    const long j = (p * U + u) * VL;",
                f"                    if (j + VL <= W) {name}_body(a, t, b0 + q, j, VL, s, q, u, count, r, keep);",
                f"                    else {name}_body(a, t, b0 + q, j, W % VL, s, q, u, count, r, keep);" if width else "",
                "                }",
                "        }",
                "    }",
                "}",
            ]
        else:
            lines += [
                f"    enum {{ W = {width}, VECTORS = (W + VL - 1) / VL }};",
                "    const long v0 = VECTORS * r.me / r.team, v1 = VECTORS * (r.me + 1) / r.team;",
                "    for (long b = r.b0; b < r.b1; b++)",
                "        for (long v = v0; v < v1; v++) {",
                "            const long j = v * VL;",
                f"            if (j + VL <= W) {name}_body(a, t, b, j, VL, 0, 0, 0, 0, r, keep);",
                f"            else {name}_body(a, t, b, j, W % VL, 0, 0, 0, 0, r, keep);",
                "        }",
                "}",
            ]
        return body + "\n" + "\n".join(line for line in lines if line) + "\n"

    def initial_reductions(self, loop: Loop) -> list[str]:
        lines = []
        for atom in loop.reductions:
            start = REDUCE[self.graph.atoms[atom].op][2]
            where = f"a->reductions[({self.reductions.index(atom)} * a->parts + r.me) * a->rows + b + r.shift]"
            lines.append(f"    for (long b = r.b0; b < r.b1; b++) {where} = {start};")
        return lines

    def products(self, stage: str, place: int, loop: Loop) -> list[str]:
        lines, first = [], "0"
        for number_, product in enumerate(loop.products):
            total = sum(arg.width for arg in product.inputs)
            slots = len(product.slots)
            pack = f"a->p_{stage}_{place}_{number_} + p * U * {slots * total} * VL"
            before = 0
            for term, arg in enumerate(product.inputs):
                row, stride = self.row(stage, arg, "b0")
                call = f"multiply(rows, count * {slots}, {row}, {stride}, {pack} + {before} * count * {slots} * VL, "
                lines.append(f"            {call}{arg.width}, s + {first}, {int(term == 0)});")
                before += arg.width
            first += f" + {slots} * U * TILE_ROWS"
        return lines

    def body(self, stage: str, place: int, loop: Loop, name: str) -> str:
        header = (
            f"V_FN void {name}_body(const Args *a, long t, long b, long j, const int n, const vec *s, long q, "
            "long u,\n        long count, Range r, const int keep) {"
        )
        lines = [header, "    (void)t, (void)s, (void)q, (void)u, (void)count, (void)r, (void)keep, (void)j;"]
        lines.append("    const long i = t * a->B + b;  // row of the sequence")
        lines.append("    (void)i;")
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
        return "\n".join([*lines, "}"])

    def slots(self, product: Product, first: str) -> list[str]:
        count = len(product.slots)
        lines = []
        for slot, atom in enumerate(product.slots):
            lines.append(f"    const vec {self.names[atom]} = s[{first} + (q * count + u) * {count} + {slot}];")
        return lines

    def reduce(self, stage: str, atom: int, loop: Loop, known: set[int]) -> list[str]:
        over, both, _ = REDUCE[self.graph.atoms[atom].op]
        where = f"a->reductions[({self.reductions.index(atom)} * a->parts + r.me) * a->rows + b + r.shift]"
        lines = []
        for arg in self.graph.atoms[atom].args:
            value = self.operand(stage, arg, loop, known, False)
            lines.append(f"    {where} = {both}({where}, {over}({value}, n));")
        return lines

    def stores(self, stage: str, atom: int) -> list[str]:
        name, lines = self.names[atom], []
        if self.owner[atom] == stage:
            for home in self.program.homes.get(atom, ()):
                lines.append(f"    {self.guard(home, atom)}v_store_n({self.address(home, 'b')} + j, {name}, n);")
            if atom in self.program.sums:
                width = self.program.buffers["sums"].width
                where = f"a->sums + 2 * r.thread * {width} + {self.program.sums[atom]} + j"
                lines.append(f"    v_store_n({where}, v_load_n({where}, n) + {name}, n);")
        if atom in self.program.locals[stage]:
            lines.append(f"    v_store_n({self.address(self.program.locals[stage][atom], 'b')} + j, {name}, n);")
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
        if arg.atom in known and (arg.atom in loop.scalars or (arg.start == 0 and arg.step == 1 and arg.width == loop.width)):
            return self.names[arg.atom]
        pointer, _ = self.row(stage, arg, "b")
        if scalar or arg.step == 0 or (atom.width == 1 and loop.width > 1):
            return f"v_set1(({pointer})[0])"
        if arg.step == 1:
            return f"v_load_n({pointer} + j, n)"
        return f"v_gather({pointer} + {arg.step} * j, {arg.step}, n)"

    def total(self, atom: int) -> str:
        return f"total_{self.graph.atoms[atom].op}(a, {self.reductions.index(atom)}, b + r.shift, r.team)"

    def row(self, stage: str, arg: Read, b: str) -> tuple[str, str]:
        """A pointer to the first column that a read takes in row b, and the distance between rows."""
        atom = self.graph.atoms[arg.atom]
        if atom.op == "weight":
            value, dims = atom.detail
            return f"a->w{value}{''.join(f'_{d}' for d in dims)} + {arg.start}", "0"
        place = self.place(stage, arg.atom)
        moved = place._replace(column=place.column + arg.start)
        return self.address(moved, b), str(self.program.buffers[place.buffer].width)

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

    def address(self, place: Place, b: str) -> str:
        buffer = self.program.buffers[place.buffer]
        column = f" + {place.column}" if place.column else ""
        width, field_ = buffer.width, f"a->{place.buffer}"
        if buffer.kind == "state":
            depth = f"a->depth{place.buffer[5:]}"
            when = "t" if place.when == "old" else "(t + 1)"
            return f"{field_} + ({when} % {depth} * a->B + {b}) * {width}{column}"
        if buffer.kind == "carry":
            parity = "(t & 1)" if place.when == "old" else "(~t & 1)"
            return f"{field_} + ({parity} * a->B + {b}) * {width}{column}"
        if buffer.kind == "local":
            return f"{field_} + ({b} + r.shift) * {width}{column}"
        return f"{field_} + (t * a->B + {b}) * {width}{column}"

    def scan(self, stage: str, place: int, loop: Loop) -> str:
        """A running sum over the columns of a row: rows are split, never columns."""
        atom = loop.atoms[0]
        lines = [f"// {self.names[atom]} = cumsum({', '.join(read_label(self.graph, a, self.names) for a in self.graph.atoms[atom].args)})"]
        lines += [f"static void {stage}_{place}(const Args *a, long t, Range r, const int keep) {{", "    (void)keep;"]
        lines += ["    const long first = r.b0 + (r.b1 - r.b0) * r.me / r.team, last = r.b0 + (r.b1 - r.b0) * (r.me + 1) / r.team;"]
        lines += ["    for (long b = first; b < last; b++) {", "        real sum = 0;", "        long to = 0;"]
        targets = [("", self.program.locals[stage][atom])] if atom in self.program.locals[stage] else []
        homes = self.program.homes.get(atom, ()) if self.owner[atom] == stage else ()
        targets += [(self.guard(home, atom), home) for home in homes]
        writes = " ".join(f"{guard}({self.address(target, 'b')})[to] = sum;" for guard, target in targets)
        for arg in self.graph.atoms[atom].args:
            pointer, _ = self.row(stage, arg, "b")
            lines.append(f"        for (long j = 0; j < {arg.width}; j++, to++) {{ sum += ({pointer})[{arg.step} * j]; {writes} }}")
        return "\n".join([*lines, "    }", "}"]) + "\n"

    # The whole.

    def run(self) -> str:
        counts = {stage: len(self.program.stages[stage]) for stage in STAGES}
        return frame(counts, self.program.buffers["sums"].width)


__all__ = ["LEAVES", "Source", "render"]
