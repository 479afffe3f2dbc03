"""Render: Program -> Triton source, one kernel for each stage, with the equations of the cell above its lines."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from cellwright.kernels.triton.values import FOLDS, Values
from cellwright.program.equations import equation
from cellwright.program.graph import aligned
from cellwright.program.loops import Loop, Product
from cellwright.program.memory import computed
from cellwright.program.memory import reads as reads_of
from cellwright.program.places import meet
from cellwright.program.program import Program
from cellwright.program.split import STAGES, TIMED
from cellwright.step.ops import OPS

HEAD = '''"""{title}: generated kernels."""

import triton
import triton.language as tl
from cellwright.kernels.triton.functions import *
'''
KERNEL = """

@triton.jit(do_not_specialize=["B", "T", "ROWS", "first", "last"])
def {stage}(
    {pointers},
    B, T, ROWS, first, last,
    {constants},
    PARTS: tl.constexpr, SPREAD: tl.constexpr, BB: tl.constexpr, BK: tl.constexpr,
    PASS: tl.constexpr, SYNC: tl.constexpr, HELD: tl.constexpr, KEEP: tl.constexpr, APART: tl.constexpr,
    REAL: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
):
    # {about}
    group, part = tl.program_id(0) // PARTS, tl.program_id(0) % PARTS
    seat = (group * BB + tl.arange(0, BB))[:, None].to(tl.int64)  # (BB, 1), rows of the batch
{held}    goal = 0
    for step in range(first, last):
        t = {time}
        begin = tl.load(at_starts + t)
        count = tl.load(at_starts + t + 1) - begin
        ahead = tl.load(at_starts + t + 2) - begin - count
        row, alive, stays = begin + seat, seat < count, seat < ahead
        following = row + count
        reset, afresh = seat < 0, seat < 0
        if APART:
            reset = tl.load(at_resets + row, mask=alive, other=0) != 0
            afresh = tl.load(at_resets + following, mask=stays, other=0) != 0
{passes}"""
ABOUT = {
    "before": "Before the loop: all rows of all steps.",
    "forward": "The steps, one after the other.",
    "backward": "The steps from the last to the first: the derivative.",
    "after": "After the loop: all rows of all steps.",
}
PASS = """        if PASS == -1 or PASS == {number}:
{lines}"""
TILE = """            col = (part * N_{number} + tl.arange(0, N_{number}))[None, :]  # (1, N)
            inside = col < {width}
            here = alive & inside
"""
MEET = """        if SYNC:
            goal += PARTS
            meet(at_counter + group, goal)
        elif PASS == -1:
            tl.debug_barrier()
"""
ALONE = """        if PASS == -1:
            tl.debug_barrier()
"""


@dataclass(frozen=True)
class Source:
    """Generated Triton, and what its kernels want."""

    text: str
    pointers: dict[str, tuple[str, ...]]  # of every stage
    vectors: tuple[tuple[int, tuple[int, ...]], ...]  # weights: value of the tape, dimensions to drop


def render(values: Values, title: str) -> Source:
    """The Triton source of a program."""
    return _Renderer(values, title).source()


def slots_of(product: Product) -> int:
    """Columns a unit takes among packed weights: those of its slots, and empty ones up to a power of two."""
    return 1 << (len(product.slots) - 1).bit_length()


class _Renderer:
    def __init__(self, values: Values, title: str) -> None:
        self.values, self.title = values, title
        self.program, self.graph = values.program, values.graph

    def source(self) -> Source:
        kernels = {stage: self.kernel(stage) for stage in STAGES if self.program.stages[stage]}
        pointers = {stage: tuple(sorted(set(re.findall(r"\bat_\w+", text)))) for stage, text in kernels.items()}
        listed = {stage: ", ".join(pointers[stage]) for stage in kernels}
        text = HEAD.format(title=self.title) + "".join(
            text.replace("{pointers}", listed[stage]) for stage, text in kernels.items()
        )
        vectors = tuple(sorted({atom.detail for atom in self.graph.atoms if atom.op == "weight"}))
        return Source(text, pointers, vectors)

    def kernel(self, stage: str) -> str:
        loops = self.program.stages[stage]
        lines = []
        for number, loop in enumerate(loops):
            body = self.scan(stage, loop) if loop.scan else self.loop(stage, number, loop)
            lines.append(PASS.format(number=number, lines="".join(f"            {line}\n" for line in body)))
            lines.append(MEET if waits(self.program, stage, number) else ALONE)
        return KERNEL.format(
            stage=stage,
            pointers="{pointers}",
            constants=", ".join(f"N_{number}: tl.constexpr" for number in range(len(loops))),
            about=ABOUT[stage],
            held="".join(self.held(stage)),
            time="T - 1 - step" if stage == "backward" else "step",
            passes="".join(lines),
        )

    def held(self, stage: str) -> Iterator[str]:
        for number, loop in enumerate(self.program.stages[stage]):
            for which, product in enumerate(loop.products if stage in TIMED else ()):
                here, name = f"HELD and (PASS == -1 or PASS == {number})", f"{number}_{which}"
                size = f"DEPTH_{name}, N_{number} * {slots_of(product)}"
                yield f"    DEPTH_{name}: tl.constexpr = {' + '.join(padded(arg.width) for arg in product.inputs)}\n"
                yield f"    held_{name} = hold(at_p_{stage}_{name}, part, {size}, BK, {here})\n"

    # One pass.

    def loop(self, stage: str, number: int, loop: Loop) -> Iterator[str]:
        yield from TILE.format(number=number, width=loop.width).replace("            ", "").splitlines()
        known: set[int] = set()
        for which, product in enumerate(loop.products):
            yield from (
                self.product(stage, number, which, product) if stage in TIMED else self.made(stage, loop, product)
            )
            known |= set(product.slots)
        at_hand: dict[str, str] = {}
        for atom in sorted({*loop.scalars, *loop.atoms}):
            names = self.values.names
            code = yield from self.operands(stage, atom, loop, known, at_hand)
            if atom in self.graph.names:
                yield f"# {names[atom]} = {equation(self.graph, atom, loop.inside, names)}"
            form = OPS[self.graph.atoms[atom].op].code
            yield f"{names[atom]} = {(form[1:-1] if form.startswith('(') else form).format(*code)}"
            known.add(atom)
        for atom in loop.reductions:
            yield from self.fold(stage, atom, loop, known, at_hand)
        made = (*(slot for product in loop.products for slot in product.slots), *loop.atoms)
        if self.overwrites(stage, loop, made):
            yield "tl.debug_barrier()  # what is overwritten has been read, by whichever threads"
        for atom in made:
            yield from self.values.stores(stage, atom)

    def overwrites(self, stage: str, loop: Loop, made: tuple[int, ...]) -> bool:
        """Whether a pass writes where it reads: columns of the same rows."""
        held = [arg for arg, _ in reads_of(self.graph, loop) if arg.atom not in {*made, *loop.scalars}]
        held = [arg for arg in held if self.graph.atoms[arg.atom].op not in ("const", "weight", *FOLDS)]
        widths = [atom.width for atom in self.graph.atoms]
        read = [self.values.place(stage, arg.atom).span(widths[arg.atom]) for arg in held]
        return meet(read, [one.span(widths[atom]) for atom in made for one in self.values.places(stage, atom)])

    def operands(
        self, stage: str, atom: int, loop: Loop, known: set[int], at_hand: dict[str, str]
    ) -> Generator[str, None, list[str]]:
        """What an operation reads; what comes from memory is read once a pass, before."""
        found = []
        for arg in self.graph.atoms[atom].args:
            operand = self.values.operand(stage, arg, loop, known)
            if "(at_" in operand:
                if operand not in at_hand:
                    name = self.values.names[arg.atom]
                    taken = {self.values.names[one] for one in known} | set(at_hand.values())
                    at_hand[operand] = name if name not in taken else f"{name}_at{len(at_hand)}"
                    yield f"{at_hand[operand]} = {operand}"
                operand = at_hand[operand]
            found.append(operand)
        return found

    def product(self, stage: str, number: int, which: int, product: Product) -> Iterator[str]:
        """The product of a step, by this program's columns of all slots at once, taken apart afterwards."""
        slots, weights = slots_of(product), f"held_{number}_{which}, at_p_{stage}_{number}_{which}, part"
        size = f"DEPTH_{number}_{which}, N_{number} * {slots}, BK"
        yield f"acc = tl.zeros((BB, N_{number} * {slots}), REAL)"
        done = "0"
        for arg in product.inputs:
            term = self.values.term(stage, arg)
            yield f"acc = multiply(acc, {term}, alive, {weights}, {done}, {size}, HELD, TYPE, PRECISION)"
            done = f"{done} + {padded(arg.width)}".removeprefix("0 + ")
        names = [self.values.names[slot] for slot in product.slots]
        yield from _taken_apart(names, slots, f"N_{number}")

    def made(self, stage: str, loop: Loop, product: Product) -> Iterator[str]:
        """A product over all rows, which a library made before this kernel."""
        slots = [slot for one in loop.products for slot in one.slots]
        for slot in product.slots:
            col = f"col + {slots.index(slot) * loop.width}" if slots.index(slot) else "col"
            yield f"{self.values.names[slot]} = take(at_products, row, {len(slots) * loop.width}, {col}, here, REAL)"

    def fold(self, stage: str, atom: int, loop: Loop, known: set[int], at_hand: dict[str, str]) -> Iterator[str]:
        """This program's part of a reduction over columns."""
        over, both, none = FOLDS[self.graph.atoms[atom].op]
        total = none
        for operand in (yield from self.operands(stage, atom, loop, known, at_hand)):
            one = over.format(f"tl.where(here, {operand}, {none})")
            total = one if total == none else both.format(total, one)
        yield f"leave(at_parts, {self.values.folds.index(atom)}, part, PARTS, ROWS, seat, alive, {total})"

    def scan(self, stage: str, loop: Loop) -> Iterator[str]:
        """A running sum over the columns of a row, by one program."""
        atom, done = loop.atoms[0], 0
        yield "if part == 0:"
        yield "    acc = tl.zeros((BB, 1), REAL)"
        for arg in self.graph.atoms[atom].args:
            yield f"    col = tl.arange(0, {1 << (arg.width - 1).bit_length()})[None, :]"
            yield f"    inside = col < {arg.width}"
            yield "    here = alive & inside"
            col = "0 * col" if arg.step == 0 else f"{arg.step} * col"
            yield f"    add = {self.values.read(stage, arg, f'{col} + {arg.start}', 'here')}"
            yield f"    {self.values.names[atom]} = tl.cumsum(add, 1) + acc"
            yield "    acc += tl.sum(add, 1, keep_dims=True)"
            yield f"    col += {done}"
            yield from (f"    {line}" for line in self.values.stores(stage, atom))
            done += arg.width


def padded(width: int) -> str:
    """Rows of packed weights for so many columns of a term."""
    return f"({width} + BK - 1) // BK * BK"


def _taken_apart(names: list[str], slots: int, units: str) -> Iterator[str]:
    """The columns of a product by slots: the last axis is halved until one is left of each."""
    if slots == 1:
        yield f"{names[0]} = acc"
        return
    halves = ", ".join(["2"] * (slots.bit_length() - 1))
    yield f"acc = tl.reshape(acc, (BB, {units}, {halves}))"
    yield from _halved("acc", 0, 1, names, slots)


def _halved(whole: str, first: int, stride: int, names: list[str], slots: int) -> Iterator[str]:
    """Slots first, first + stride, ... of a value, whose last axis has them apart by `stride`."""
    even, odd = first, first + stride
    done = 2 * stride == slots
    parts = [names[slot] if done and slot < len(names) else f"acc_{slot}_{2 * stride}" for slot in (even, odd)]
    yield f"{parts[0]}, {parts[1]} = tl.split({whole})"
    for part, slot in zip(parts, (even, odd), strict=True):
        if not done:
            yield from _halved(part, slot, 2 * stride, names, slots)


def waits(program: Program, stage: str, number: int) -> bool:
    """Whether programs wait for each other after a pass: not where it only keeps something for other stages."""
    graph, loops = program.graph, program.stages[stage]
    if number == len(loops) - 1:
        return not _runs_on(program, stage)
    made = {*computed(loops[number]), *loops[number].reductions}
    read = {arg.atom for loop in loops[number + 1 :] for arg, _ in reads_of(graph, loop)}
    seen = [home for arg, _ in reads_of(graph, loops[number]) for home in program.homes.get(arg.atom, ())]
    left = [home for atom in made for home in program.homes.get(atom, ())]
    return bool(made & read or any(home.when for home in left) or any(home.buffer in ("d", "kept") for home in seen))


def _runs_on(program: Program, stage: str) -> bool:
    """Whether a program may begin the next step without waiting for the others.

    It may where the first pass reads only what the same program wrote, column for column. What it writes nobody still
    reads: rows of this step, which no step had before, and scratch, of which steps take two in turn.
    """
    graph, loops = program.graph, program.stages[stage]
    head, tail = loops[0], loops[-1]
    if len(loops) < 2 or head.products or head.scan or head.reductions or head.width != tail.width:
        return False
    reads = [arg for atom in (*head.atoms, *head.scalars) for arg in graph.atoms[atom].args]
    others = [arg for loop in loops[1:] for arg, _ in reads_of(graph, loop)]
    carries = [arg for arg in others if graph.atoms[arg.atom].op == "dstate"]
    carries += [arg for arg in reads if graph.atoms[arg.atom].op == "dstate" and not aligned(arg, head.width)]
    writers = {loop.width for loop in loops for atom in computed(loop) if _is_carried(program, atom)}
    apart = [arg for arg in reads if graph.atoms[arg.atom].op == "state"]
    folded = [arg for arg in reads if graph.atoms[arg.atom].op in FOLDS]
    late = stage == "forward" and apart
    return not (carries or writers - {head.width} or late or folded or head.scalars)


def _is_carried(program: Program, atom: int) -> bool:
    return any(home.buffer.startswith("dstate") for home in program.homes.get(atom, ()))
