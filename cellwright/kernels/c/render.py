"""Render: Program -> C source, one function for each pass, with the equations of the cell above its lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from cellwright.kernels.c.address import REDUCE, Addresses, vector
from cellwright.kernels.c.columns import Columns, Function
from cellwright.kernels.c.frame import frame
from cellwright.kernels.c.once import Once, once
from cellwright.kernels.c.packing import Packing, packing
from cellwright.kernels.c.templates import AHEAD, EARLIER, PART, PLAIN, SCAN, TILED
from cellwright.kernels.c.waits import goes_ahead, waits
from cellwright.kernels.gradients import Gradients
from cellwright.program.equations import read_label
from cellwright.program.loops import Loop, Product
from cellwright.program.program import Program
from cellwright.program.split import STAGES, TIMED

UNITS = {1: 4, 2: 4, 3: 4, 4: 4, 5: 4, 6: 2, 7: 4}  # most vectors of columns in a panel, by slots: tiles come out full


@dataclass(frozen=True)
class Source:
    """Generated C, and what its argument needs."""

    text: str
    packs: tuple[tuple[str, int, int], ...]  # of every packed product: stage, pass, product
    packing: Packing
    thirds: Packing
    weights: tuple[tuple[int, tuple[int, ...]], ...]  # vectors: value of the tape, dimensions to drop
    reductions: tuple[int, ...]
    units: dict[tuple[str, int], int]
    gradients: Gradients
    once: Once


def render(program: Program, title: str) -> Source:
    """The C source of a program."""
    return _Renderer(program, title).source()


class _Renderer:
    def __init__(self, program: Program, title: str) -> None:
        self.program, self.graph, self.title = program, program.graph, title
        self.at = Addresses(program)
        self.columns = Columns(program, self.at)
        passes = [(stage, place, loop) for stage in STAGES for place, loop in enumerate(program.stages[stage])]
        self.passes = passes
        self.ahead = goes_ahead(self.columns)
        self.gradients = Gradients(program)
        self.once = once(program, self.gradients)
        leaves = {(value, ()) for value in self.once.leaves}
        self.weights = sorted({a.detail for a in self.graph.atoms if a.op == "weight"} | leaves)
        self.packs = [(stage, place, which) for stage, place, loop in passes for which in range(len(loop.products))]
        self.packing, self.thirds = packing(program, self.packs), packing(program, self.packs, thirds=True)
        self.units = {(stage, place): max([1, *map(_units, loop.products)]) for stage, place, loop in passes}

    def source(self) -> Source:
        counts = {stage: len(self.program.stages[stage]) for stage in STAGES}
        parts = [self.head(), self.at.memory(self.weights)]
        parts += [self.scan(*one) if one[2].scan else self.loop(*one) for one in self.passes]
        parts.append(self.once.text)
        parts.append(frame(counts, self.program.buffers["sums"].width, waits(self.columns), self.ahead, self.once))
        return Source(
            "\n".join(part for part in parts if part),
            tuple(self.packs),
            self.packing,
            self.thirds,
            tuple(self.weights),
            tuple(self.at.reductions),
            self.units,
            self.gradients,
            self.once,
        )

    def head(self) -> str:
        """The argument: after a Call the buffers, and the weights that are vectors."""
        fields = [name for name in self.program.buffers if name != "sums"]
        fields += [vector(*one) for one in self.weights]
        real = "#define REAL_DOUBLE\n" if self.program.dtype == torch.float64 else ""
        pointers = "".join(f"    real *{name};\n" for name in fields)
        return f'// {self.title}\n{real}#include "sequence.h"\n\ntypedef struct {{\n    Call c;\n{pointers}}} Args;\n'

    # One pass.

    def loop(self, stage: str, place: int, loop: Loop) -> str:
        name = f"{stage}_{place}"
        functions = self.columns.functions(stage, name, loop, self.units[stage, place])
        own = self.tiled(stage, place, loop, functions) if loop.products else self.plain(stage, name, loop)
        return "\n".join(function.text for function in functions) + own

    def tiled(self, stage: str, place: int, loop: Loop, functions: list[Function]) -> str:
        """Products first, tile by tile."""
        name, units, timed = f"{stage}_{place}", self.units[stage, place], stage in TIMED
        parts = [PART.format(number=number, name=one.name, memory="m") for number, one in enumerate(functions)]
        ahead = self.ahead and (stage, loop) == ("backward", self.program.stages["backward"][-1])
        if ahead:
            parts.append(PART.format(number=len(functions), name="backward_0_at", memory="before"))
        return TILED.format(
            name=name,
            width=loop.width,
            units=units,
            tile=self.columns.vectors(stage, loop) * units,
            few="arg->c.few" if timed else 0,
            most="units_of(&arg->c, U)" if timed else "U",
            team="packed_for(&arg->c)" if timed else 1,
            start="".join(self.initial_reductions(loop)),
            inputs="".join(self.inputs(stage, place, loop)),
            products="".join([*self.prefetches(stage, loop), *self.products(stage, place, loop)]),
            count=f"{len(functions)} + ahead" if ahead else len(functions),
            parts="".join(parts),
            earlier=EARLIER if ahead else "",
            ahead=AHEAD if ahead else "",
            before="&before" if ahead else "0",
        )

    def plain(self, stage: str, name: str, loop: Loop) -> str:
        """No products: row by row, with what the columns of a row share."""
        shared = self.columns.shared(loop)
        return PLAIN.format(
            name=name,
            width=loop.width,
            start="" if shared else "".join(self.initial_reductions(loop)),
            begins="".join(self.columns.row_begins(stage, loop, shared)) if shared else "",
            ends="".join(self.columns.row_ends(shared)) if shared else "",
            shared="shared" if shared else "0",
        )

    def initial_reductions(self, loop: Loop) -> Iterator[str]:
        for atom in loop.reductions:
            start, where = REDUCE[self.graph.atoms[atom].op][2], self.at.partial(atom)
            yield f"    for (long row = part.b0; row < part.b1; row++) {where} = {start};\n"

    def inputs(self, stage: str, place: int, loop: Loop) -> Iterator[str]:
        """The products of a pass: terms, and where their packed weights start, plain and in thirds."""
        for number, product in enumerate(loop.products):
            terms = [(*self.at.row(stage, arg, "0"), str(arg.width)) for arg in product.inputs]
            listed = ", ".join("{" + ", ".join(term) + "}" for term in terms)
            which = self.packs.index((stage, place, number))
            starts = ", ".join(str(packing.starts[which]) for packing in (self.packing, self.thirds))
            yield f"    const Term terms{number}[] = {{{listed}}};\n"
            given = f"terms{number}, {len(terms)}, {len(product.slots)}, {starts}"
            yield f"    Inputs in{number} = inputs(&arg->c, part, {given}, &parted);\n"

    def products(self, stage: str, place: int, loop: Loop) -> Iterator[str]:
        first = 0
        all_points = " + ".join(f"points(&in{number}, rows, count)" for number in range(len(loop.products)))
        yield f"            columns.beside.points = {all_points};\n"
        for number, product in enumerate(loop.products):
            after = f"&in{number + 1}, start" if number + 1 < len(loop.products) else "&in0, next"
            tile = f"tile + {first * self.units[stage, place]} * GROUP_ROWS"
            yield f"            product(&in{number}, group, place == from, first, rows, start, count, most, {tile},\n"
            yield f"                    arg->c.far ? weights_from({after}) : 0, &columns.beside);\n"
            first += len(product.slots)

    def prefetches(self, stage: str, loop: Loop) -> Iterator[str]:
        """Hints to fetch, while the products run, what the columns will read that rows keep far apart."""
        reads = {arg for atom in loop.atoms for arg in self.graph.atoms[atom].args if arg.width == loop.width > 1}
        known = {*loop.atoms, *loop.scalars, *(slot for product in loop.products for slot in product.slots)}
        far = [a for a in sorted(reads) if a.atom not in known and a.step == 1 and self.at.is_sequence(stage, a)]
        if loop.products and far:
            yield "            for (long row = first; row < first + rows; row++)\n"
            yield "                for (long col = start * VL; col < (start + count) * VL; col += VL) {\n"
            for arg in far:
                yield f"                    __builtin_prefetch({self.at.row(stage, arg, 'row')[0]} + col);\n"
            yield "                }\n"

    def scan(self, stage: str, place: int, loop: Loop) -> str:
        """A running sum over the columns of a row: rows are split, never columns."""
        atom = loop.atoms[0]
        args = self.graph.atoms[atom].args
        targets = [("", self.program.locals[stage][atom])] if atom in self.program.locals[stage] else []
        homes = self.program.homes.get(atom, ()) if self.columns.owner[atom] == stage else ()
        targets += [(self.columns.guard(home, atom), home) for home in homes]
        writes = " ".join(f"{guard}({self.at.address(target, 'row')})[to] = sum;" for guard, target in targets)
        lines = []
        for arg in args:
            from_, _ = self.at.row(stage, arg, "row")
            walk = f"for (long col = 0; col < {arg.width}; col++, to++)"
            lines.append(f"        {walk} {{ sum += ({from_})[{arg.step} * col]; {writes} }}\n")
        labels = ", ".join(read_label(self.graph, arg, self.at.names) for arg in args)
        return SCAN.format(name=f"{stage}_{place}", made=self.at.names[atom], read=labels, lines="".join(lines))


def _units(product: Product) -> int:
    return UNITS.get(len(product.slots), 1)
