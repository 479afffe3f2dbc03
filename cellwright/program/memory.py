"""Memory: where every value that outlives its pass is kept, and which may take the place of which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cellwright.program.graph import STATE, Graph, aligned
from cellwright.program.loops import Loop
from cellwright.program.places import Place
from cellwright.program.split import Split
from cellwright.step.atoms import Read


@dataclass
class Memory:
    """Homes of atoms, growing: places in matrices of T*B rows, in states, in the scratch of a step."""

    graph: Graph
    stages: dict[str, tuple[Loop, ...]]
    homes: dict[int, list[Place]] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)

    def append(self, atom: int, matrix: str) -> None:
        """Give an atom columns of its own at the end of a matrix."""
        column = self.widths.get(matrix, 0)
        self.homes.setdefault(atom, []).append(Place(matrix, column))
        self.widths[matrix] = column + self.graph.atoms[atom].width

    def last_read(self, atom: int, stage: str) -> tuple[int, bool]:
        """The last pass of a stage that reads an atom (-1: none), and whether there only column for column."""
        last, plain = -1, True
        for number, loop in enumerate(self.stages[stage]):
            for arg, elementwise in reads(self.graph, loop):
                if arg.atom == atom:
                    plain = (plain if last == number else True) and elementwise and aligned(arg, loop.width)
                    last = number
        return last, plain

    def written(self, atom: int, stage: str) -> int:
        """The pass of a stage that computes an atom (-1: none)."""
        for number, loop in enumerate(self.stages[stage]):
            if atom in loop.atoms or any(atom in product.slots for product in loop.products):
                return number
        return -1

    def may_follow(self, new: int, old: int, stage: str) -> bool:
        """Whether a value written in a stage may overwrite one that is read there: in the same columns, later."""
        if self.graph.atoms[new].width != self.graph.atoms[old].width:
            return False
        write, (read, plain) = self.written(new, stage), self.last_read(old, stage)
        return write >= 0 and (read < write or (read == write and plain))


def reads(graph: Graph, loop: Loop) -> Iterator[tuple[Read, bool]]:
    """Every read of a pass, and whether an elementwise operation does it over its whole width."""
    for product in loop.products:
        for arg in product.inputs:
            yield arg, False
    for atom in (*loop.atoms, *loop.reductions):
        for arg in graph.atoms[atom].args:
            yield arg, not loop.scan
    for atom in loop.scalars:
        for arg in graph.atoms[atom].args:
            yield arg, False


def settle(graph: Graph, split: Split, stages: dict[str, tuple[Loop, ...]], operands: list[int]) -> Memory:
    """Places for all values that later stages read.

    `operands` are the gradients of products, in the order their matrix is to have. A value kept by the forward
    loop may lie where such a gradient will be written, a hoisted one where a kept one will be: one matrix of
    the gates' columns then serves as projections, gates and gradients in turn.
    """
    memory = Memory(graph, stages)
    free: dict[int, Place] = {}
    for atom in operands:
        memory.append(atom, "d")
        free[atom] = memory.homes[atom][0]
    for atom in sorted(split.deferred - set(operands)):
        memory.append(atom, "d")
    depends = graph.depends()
    fixed = set(graph.used(*(name for name in graph.outputs if name.startswith(("left", "right")))))
    open_slots: dict[int, Place] = {}
    for atom in sorted(split.kept, key=lambda atom: (graph.atoms[atom].width == 1, atom)):  # wide ones begin at lines
        place = None
        if atom not in fixed and memory.last_read(atom, "after")[0] < 0:
            taken = next((new for new in free if memory.may_follow(new, atom, "backward")), None)
            place = free.pop(taken) if taken is not None else None
        if place is None:
            memory.append(atom, "kept")
        else:
            memory.homes.setdefault(atom, []).append(place)
        if depends[atom] & STATE:
            open_slots[atom] = memory.homes[atom][-1]
    for atom in sorted(split.hoisted - split.kept):
        taken = next((new for new in open_slots if memory.may_follow(new, atom, "forward")), None)
        place = open_slots.pop(taken) if taken is not None else None
        if place is None and free:
            same = next((new for new in free if graph.atoms[new].width == graph.atoms[atom].width), None)
            place = free.pop(same) if same is not None else None
        if place is None:
            memory.append(atom, "hoisted")
        else:
            memory.homes.setdefault(atom, []).append(place)
    return memory


def local_places(graph: Graph, stage: tuple[Loop, ...], homes: dict[int, tuple[Place, ...]]) -> dict[int, Place]:
    """Places in the scratch of a step for what one pass computes and another reads."""
    made = {atom: loop for loop in stage for atom in computed(loop)}
    found: dict[int, Place] = {}
    column = 0
    for loop in stage:
        for arg, _ in reads(graph, loop):
            source = made.get(arg.atom)
            if source is None or arg.atom in homes or arg.atom in found:
                continue
            if (source is loop and aligned(arg, loop.width)) or graph.atoms[arg.atom].op in ("sum", "max", "min"):
                continue
            found[arg.atom] = Place("scratch", column)
            column += graph.atoms[arg.atom].width
    return found


def computed(loop: Loop) -> Iterator[int]:
    """What a pass computes over its columns."""
    for product in loop.products:
        yield from product.slots
    yield from loop.atoms
