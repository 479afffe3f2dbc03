"""Loops: the atoms of one stage as passes over the columns, each after all that it must have in memory."""

from __future__ import annotations

from dataclasses import dataclass

from cellwright.program.graph import Graph, aligned, is_elementwise
from cellwright.step.atoms import Read


@dataclass(frozen=True)
class Product:
    """Products that share their inputs, computed side by side: one atom for each slot."""

    inputs: tuple[Read, ...]
    slots: tuple[int, ...]


@dataclass(frozen=True)
class Loop:
    """One pass over `width` columns: first products into registers, then what every column does with them.

    `scalars` are values of one column that are computed for every row again and spread over the columns;
    `reductions` are added up over the columns of the pass; a `scan` walks the columns of a row in order.
    """

    width: int
    products: tuple[Product, ...]
    scalars: tuple[int, ...]
    atoms: tuple[int, ...]
    reductions: tuple[int, ...]
    scan: bool = False

    @property
    def inside(self) -> frozenset[int]:
        """All that is computed column by column."""
        return frozenset(self.atoms + self.scalars)


class Levels:
    """How many passes must come before each atom of a stage."""

    def __init__(self, graph: Graph, compute: list[int]) -> None:
        self.graph = graph
        self.inside = set(compute)
        self.level: dict[int, int] = {}
        for atom in compute:
            self.level[atom] = self._level(atom)
        self.readers: dict[int, list[tuple[int, int]]] = {atom: [] for atom in compute}
        """Of every atom those that read it, and how many passes later at least."""
        for atom in compute:
            for arg in graph.atoms[atom].args:
                if arg.atom in self.inside:
                    self.readers[arg.atom].append((atom, self._after(atom, arg) - self.level[arg.atom]))

    def put_off(self, stored: set[int]) -> None:
        """Let arithmetic wait for the pass that reads it, where nothing new would have to outlast passes for it."""
        for atom in sorted(self.inside - stored, reverse=True):
            if self._can_wait(atom):
                last = min(self.level[reader] - later for reader, later in self.readers[atom])
                for one in self._with(atom, last, stored) if last > self.level[atom] else ():
                    self.level[one] = last

    def _can_wait(self, atom: int) -> bool:
        readers = [reader for reader, _ in self.readers[atom]]
        plain = is_elementwise(self.graph.atoms[atom]) and not self.is_scalar(atom)
        return plain and bool(readers) and not any(map(self.is_scalar, readers))

    def _with(self, atom: int, last: int, stored: set[int]) -> set[int]:
        """An atom and those that have to wait with it for a pass; empty if not all can."""
        found, reads = {atom}, self._reads(atom)
        while reads:
            one = max(reads)  # after all that read it
            reads.discard(one)
            others = [self.level[reader] - later for reader, later in self.readers[one] if reader not in found]
            if one in stored or self.is_scalar(one) or any(level >= last for level in others):
                continue  # there anyway
            if others or not self._can_wait(one):
                return set()
            found.add(one)
            reads |= self._reads(one)
        return found

    def _reads(self, atom: int) -> set[int]:
        return {arg.atom for arg in self.graph.atoms[atom].args} & self.inside

    def is_scalar(self, atom: int) -> bool:
        """One column, from others of one column: done again in every pass that reads it."""
        made = self.graph.atoms[atom]
        return made.width == 1 and is_elementwise(made)

    def _level(self, place: int) -> int:
        atom = self.graph.atoms[place]
        return max([0, *(self._after(place, arg) for arg in atom.args if arg.atom in self.inside)])

    def _after(self, place: int, arg: Read) -> int:
        atom, read = self.graph.atoms[place], self.graph.atoms[arg.atom]
        if atom.op in ("mm", "cumsum") or read.op in ("sum", "max", "min", "cumsum"):
            return self.level[arg.atom] + 1
        if self.is_scalar(arg.atom):
            return self.level[arg.atom]
        if atom.op in ("sum", "max", "min"):
            return self.level[arg.atom] + (not aligned(arg, read.width))
        return self.level[arg.atom] + (read.width != atom.width or not aligned(arg, atom.width))


def loops(graph: Graph, compute: list[int], stored: set[int]) -> tuple[Loop, ...]:
    """The passes of a stage, in order; `stored` are the atoms that must be in memory in the end."""
    levels = Levels(graph, compute)
    levels.put_off(stored)
    passes: dict[tuple[int, int, int], list[int]] = {}
    for place in compute:
        atom = graph.atoms[place]
        if levels.is_scalar(place) and place not in stored and _spread_only(graph, compute, place):
            continue
        width = atom.args[0].width if atom.op in ("sum", "max", "min") else atom.width
        scan = place if atom.op == "cumsum" else -1
        passes.setdefault((levels.level[place], width, scan), []).append(place)
    return tuple(_loop(graph, levels, key[1], key[2] >= 0, passes[key]) for key in sorted(passes))


def _spread_only(graph: Graph, compute: list[int], place: int) -> bool:
    """Whether only elementwise operations read this value of one column."""
    readers = [graph.atoms[a] for a in compute if any(arg.atom == place for arg in graph.atoms[a].args)]
    return bool(readers) and all(is_elementwise(reader) for reader in readers)


def _loop(graph: Graph, levels: Levels, width: int, scan: bool, members: list[int]) -> Loop:
    if scan:
        return Loop(width, (), (), tuple(members), (), True)
    products: dict[tuple[Read, ...], list[int]] = {}
    for place in members:
        if graph.atoms[place].op == "mm":
            products.setdefault(graph.atoms[place].args, []).append(place)
    atoms = [place for place in members if is_elementwise(graph.atoms[place])]
    reductions = [place for place in members if graph.atoms[place].op in ("sum", "max", "min")]
    scalars: set[int] = set()
    stack = [arg.atom for place in [*atoms, *reductions] for arg in graph.atoms[place].args]
    while stack:
        place = stack.pop()
        if place in levels.inside and levels.is_scalar(place) and place not in members and place not in scalars:
            scalars.add(place)
            stack += [arg.atom for arg in graph.atoms[place].args]
    grouped = tuple(Product(inputs, tuple(slots)) for inputs, slots in products.items())
    return Loop(width, grouped, tuple(sorted(scalars)), tuple(atoms), tuple(reductions))
