"""Graph: the atoms of a step made ready for loops: cut where columns part, products of one sum joined."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from cellwright.step.atoms import COLUMN_BITS, LEAVES, Atom, Read, Refs, Weight, segments
from cellwright.step.capture import Step
from cellwright.step.ops import OPS
from cellwright.step.refused import Refused
from cellwright.step.tape import Tape

COLUMN_MASK = (1 << COLUMN_BITS) - 1
TRANSPOSES = (torch.ops.aten.t.default, torch.ops.aten.permute.default, torch.ops.aten.transpose.int)
SMALL = 32  # columns of x in a product that is done in the loop
MOST_PIECES = 64  # of one atom: beyond this, columns are shifted against each other rather than cut
X, STATE, GRAD = 1, 2, 4  # what a value depends on


@dataclass
class Graph:
    """Atoms in the order of their computation, and the columns that leave the step."""

    atoms: list[Atom] = field(default_factory=list)
    wheres: list[str] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    outputs: dict[str, Refs] = field(default_factory=dict)
    states: tuple[str, ...] = ()  # what the cell calls them
    labels: dict[int, str] = field(default_factory=dict)  # of weights: what the cell's author calls them

    def add(self, atom: Atom, where: str = "", name: str = "") -> int:
        self.atoms.append(atom)
        self.wheres.append(where)
        if name:
            self.names[len(self.atoms) - 1] = name
        return len(self.atoms) - 1

    def refs(self, atom: int) -> Refs:
        return (atom << COLUMN_BITS) + np.arange(self.atoms[atom].width, dtype=np.int64)

    def depends(self) -> list[int]:
        """For every atom which of X, STATE, GRAD it depends on."""
        own = {"x": X, "state": STATE, "dy": GRAD, "dstate": GRAD}
        found: list[int] = []
        for atom in self.atoms:
            bits = own.get(atom.op, 0)
            for arg in atom.args:
                bits |= found[arg.atom]
            found.append(bits)
        return found

    def ancestors(self, wanted: Iterable[int]) -> set[int]:
        found: set[int] = set()
        stack = list(wanted)
        while stack:
            atom = stack.pop()
            if atom not in found:
                found.add(atom)
                stack += [arg.atom for arg in self.atoms[atom].args]
        return found

    def used(self, *names: str) -> Iterator[int]:
        """The atoms whose columns leave the step under these names."""
        for name, refs in self.outputs.items():
            if not names or name in names:
                yield from sorted(set((refs >> COLUMN_BITS).tolist()))


def is_elementwise(atom: Atom) -> bool:
    return atom.op in OPS


def aligned(arg: Read, width: int) -> bool:
    """Whether a read takes column j for column j."""
    return arg.start == 0 and arg.step == 1 and arg.width == width


def build(step: Step, states: tuple[str, ...], outputs: dict[str, Refs]) -> Graph:
    """The graph of a step whose columns leave under the names of `outputs`."""
    words = (dict(step.names), dict(outputs), states, labels(step.tape))
    graph = reread(Graph(list(step.atoms), list(step.wheres), *words))
    return prune(join_products(settle_reductions(prune(cut(prune(graph))))))


def labels(tape: Tape) -> dict[int, str]:
    """Names for the weights on a tape: parameters as they are called, with ^T where they are transposed."""
    found: dict[int, str] = {}
    for number, entry in enumerate(tape.entries):
        if isinstance(entry.leaf, str):
            found[number] = entry.leaf.removeprefix("module.")
        elif entry.function in TRANSPOSES and tape.inputs[number][0] in found:
            found[number] = f"{found[tape.inputs[number][0]]}^T".replace("^T^T", "")
    return found


def reread(graph: Graph) -> Graph:
    """With the incoming gradient of a state read once, by a copy: later stages cannot read it where it lies."""
    new = Graph(labels=graph.labels, states=graph.states)
    moved: list[int] = []
    for place, atom in enumerate(graph.atoms):
        atom = atom._replace(args=tuple(arg._replace(atom=moved[arg.atom]) for arg in atom.args))
        moved.append(new.add(atom, graph.wheres[place], graph.names.get(place, "")))
        if atom.op == "dstate":
            moved[-1] = new.add(Atom("copy", atom.width, (Read(moved[-1], 0, 1, atom.width),)))
    new.outputs = {name: _moved(refs, moved) for name, refs in graph.outputs.items()}
    return new


def prune(graph: Graph) -> Graph:
    """Without atoms that nothing needs."""
    needed = sorted(graph.ancestors(graph.used()))
    return rebuild(graph, {atom: [(0, graph.atoms[atom].width)] for atom in needed})


def cut(graph: Graph) -> Graph:
    """With atoms cut until every operation reads whole atoms, or memory."""
    cuts: dict[int, set[int]] = {place: set() for place in range(len(graph.atoms))}
    for refs in graph.outputs.values():
        for part in segments(refs):
            _cut_at(graph, cuts, part)
    changed = True
    while changed:
        changed = False
        for place, atom in enumerate(graph.atoms):
            if is_elementwise(atom):
                for arg in atom.args:
                    changed |= _match(graph, cuts, place, arg)
    pieces = {}
    for place, atom in enumerate(graph.atoms):
        ends = [0, *sorted(cuts[place]), atom.width]
        pieces[place] = list(itertools.pairwise(ends))
    return rebuild(graph, pieces)


def _splits(atom: Atom) -> bool:
    return is_elementwise(atom) or atom.op == "mm"


def _cut_at(graph: Graph, cuts: dict[int, set[int]], arg: Read) -> bool:
    if arg.step != 1 or not _splits(graph.atoms[arg.atom]):
        return False
    return _extend(graph, cuts, arg.atom, {arg.start, arg.start + arg.width})


def _match(graph: Graph, cuts: dict[int, set[int]], place: int, arg: Read) -> bool:
    if not _splits(graph.atoms[arg.atom]):
        return False
    if arg.step != 1:  # read apart or backwards: this atom is cut where the other one is
        columns = arg.start + arg.step * np.arange(arg.width)
        pieces = np.searchsorted(sorted(cuts[arg.atom]), columns, side="right")
        return _extend(graph, cuts, place, set((np.flatnonzero(np.diff(pieces)) + 1).tolist()))
    changed = _cut_at(graph, cuts, arg)
    changed |= _extend(graph, cuts, arg.atom, {arg.start + c for c in cuts[place]})
    inside = {c - arg.start for c in cuts[arg.atom] if arg.start < c < arg.start + arg.width}
    return _extend(graph, cuts, place, inside) or changed


def _extend(graph: Graph, cuts: dict[int, set[int]], atom: int, places: set[int]) -> bool:
    new = {c for c in places if 0 < c < graph.atoms[atom].width} - cuts[atom]
    cuts[atom] |= new
    if len(cuts[atom]) > MOST_PIECES:
        raise Refused(
            f"columns are shifted against each other too often, into more than {MOST_PIECES} pieces of one value",
            graph.wheres[atom],
        )
    return bool(new)


def rebuild(graph: Graph, pieces: dict[int, list[tuple[int, int]]]) -> Graph:
    """The same graph with only these pieces of its atoms."""
    new = Graph(labels=graph.labels, states=graph.states)
    table: dict[int, list[tuple[int, int, int]]] = {}  # old atom: (start, stop, new atom)
    offset: dict[int, Refs] = {}

    def move(refs: Refs) -> Refs:
        if not len(refs):
            return refs
        return np.array([offset[ref >> COLUMN_BITS][ref & COLUMN_MASK] for ref in refs.tolist()], dtype=np.int64)

    for place in sorted(pieces):
        atom, parts = graph.atoms[place], pieces[place]
        table[place] = []
        for number, (start, stop) in enumerate(parts):
            made = _piece(atom, start, stop, table, graph.wheres[place])
            name = graph.names.get(place, "")
            added = new.add(made, graph.wheres[place], name if len(parts) == 1 or not name else f"{name}_{number}")
            table[place].append((start, stop, added))
        offset[place] = np.concatenate([new.refs(added) for _, _, added in table[place]])
    new.outputs = {name: move(refs) for name, refs in graph.outputs.items()}
    return new


Table = dict[int, list[tuple[int, int, int]]]


def _piece(atom: Atom, start: int, stop: int, table: Table, where: str) -> Atom:
    width = stop - start
    if atom.op in LEAVES:
        return atom
    if is_elementwise(atom):
        moved = [Read(a.atom, a.start + start * a.step, a.step if width > 1 else 1, width) for a in atom.args]
        return Atom(atom.op, width, tuple(_one(arg, table, where) for arg in moved), atom.detail)
    args: list[Read] = []
    details: list[Weight] = []
    for place, arg in enumerate(atom.args):
        row = 0
        for part in _parts(arg, table, where):
            args.append(part)
            if atom.op == "mm":
                weight: Weight = atom.detail[place]
                details.append(weight._replace(row=weight.row + row, column=weight.column + start))
                row += part.width
    return Atom(atom.op, width, tuple(args), tuple(details) if atom.op == "mm" else atom.detail)


def _one(arg: Read, table: Table, where: str) -> Read:
    found = list(_parts(arg, table, where))
    if len(found) != 1:
        raise Refused("columns are shifted against each other", where)
    return found[0]


def _parts(arg: Read, table: Table, where: str) -> Iterator[Read]:
    """A read of an old atom as reads of its pieces."""
    last = arg.start + arg.step * (arg.width - 1)
    low, high = min(arg.start, last), max(arg.start, last) + 1
    for start, stop, new in table[arg.atom]:
        if start <= low and high <= stop:
            yield arg._replace(atom=new, start=arg.start - start)
            return
    columns = arg.start + arg.step * np.arange(arg.width)
    pieces = np.searchsorted([start for start, _, _ in table[arg.atom]], columns, side="right") - 1
    for inside in np.split(np.arange(arg.width), np.flatnonzero(np.diff(pieces)) + 1):
        start, _, new = table[arg.atom][pieces[inside[0]]]
        yield Read(new, int(columns[inside[0]]) - start, arg.step if len(inside) > 1 else 1, len(inside))


REDUCTIONS = {"sum": "add", "max": "maximum", "min": "minimum"}  # and how two partial results are combined


def settle_reductions(graph: Graph) -> Graph:
    """With reductions over columns of one width each, read only through a copy that can be kept."""
    new = Graph(labels=graph.labels, states=graph.states)
    moved: list[int] = []
    for place, atom in enumerate(graph.atoms):
        atom = atom._replace(args=tuple(arg._replace(atom=moved[arg.atom]) for arg in atom.args))
        if atom.op not in REDUCTIONS:
            moved.append(new.add(atom, graph.wheres[place], graph.names.get(place, "")))
            continue
        total = -1
        for width in sorted({arg.width for arg in atom.args}):
            part = atom._replace(args=tuple(arg for arg in atom.args if arg.width == width))
            one = new.add(part, graph.wheres[place])
            copied = new.add(Atom("copy", 1, (Read(one, 0, 1, 1),)), graph.wheres[place])
            both = (Read(total, 0, 1, 1), Read(copied, 0, 1, 1))
            total = copied if total < 0 else new.add(Atom(REDUCTIONS[atom.op], 1, both), graph.wheres[place])
        if place in graph.names:
            new.names[total] = graph.names[place]
        moved.append(total)
    new.outputs = {name: _moved(refs, moved) for name, refs in graph.outputs.items()}
    return new


def _moved(refs: Refs, moved: list[int]) -> Refs:
    found: Refs = (np.array(moved, dtype=np.int64)[refs >> COLUMN_BITS] << COLUMN_BITS) | (refs & COLUMN_MASK)
    return found


def is_small_product(graph: Graph, atom: int) -> bool:
    """A product of few columns of x: done in the loop, where its sums are in registers anyway."""
    made = graph.atoms[atom]
    inputs = made.op == "mm" and all(graph.atoms[arg.atom].op == "x" for arg in made.args)
    return inputs and sum(arg.width for arg in made.args) <= max(SMALL, made.width // 4)


def join_products(graph: Graph) -> Graph:
    """With sums of products made one product of several terms, where all depend on the same.

    Also where something else stands between them: (a + p) + q becomes a + (p + q), and (a + p) + (b + q) becomes
    a + (b + (p + q)).
    """
    joins = _Joins(graph)
    for place, atom in enumerate(graph.atoms):
        if atom.op != "add" or not all(aligned(arg, atom.width) for arg in atom.args) or atom.args[0] == atom.args[1]:
            continue
        left, right = (arg.atom for arg in atom.args)
        if joins.alike(left, right):
            graph.atoms[place] = joins.joined(left, right)
            continue
        for inner, outer in ((left, right), (right, left)):
            rest = joins.beside(inner, outer)
            if rest is not None:
                graph.atoms[outer] = joins.joined(*rest[1:])
                graph.atoms[place] = atom._replace(args=(rest[0], Read(outer, 0, 1, atom.width)))
                break
        else:
            joins.across(place, *sorted((left, right)))
    return graph


class _Joins:
    """Which products of a graph can become one."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.depends = graph, graph.depends()
        self.uses = [0] * len(graph.atoms)
        for read in (arg.atom for atom in graph.atoms for arg in atom.args):
            self.uses[read] += 1
        for used in graph.used():
            self.uses[used] += 1

    def alike(self, one: int, other: int) -> bool:
        """Whether both are products that nothing else reads, of what comes at the same time."""
        kinds = {self.depends[atom] & 6 for atom in (one, other) if not is_small_product(self.graph, atom)}
        alone = all(self.graph.atoms[atom].op == "mm" and self.uses[atom] == 1 for atom in (one, other))
        return alone and len(kinds) <= 1

    def joined(self, one: int, other: int) -> Atom:
        a, b = self.graph.atoms[one], self.graph.atoms[other]
        return Atom("mm", a.width, a.args + b.args, a.detail + b.detail)

    def beside(self, inner: int, outer: int) -> tuple[Read, int, int] | None:
        """Of a sum that a product is added to: what else is in it, its own product, and the one added."""
        for rest, own in self._sides(inner):
            if self.alike(own.atom, outer) and own.atom < outer and rest.atom < outer:
                return rest, own.atom, outer
        return None

    def across(self, place: int, first: int, last: int) -> None:
        """Of a sum of two sums with a product in each: join the products, where they are alike."""
        for (a, p), (b, q) in itertools.product(self._sides(first), self._sides(last)):
            if self.alike(p.atom, q.atom):
                one, width = max(p.atom, q.atom), self.graph.atoms[place].width
                self.graph.atoms[one] = self.joined(p.atom, q.atom)
                self.graph.atoms[last] = Atom("add", width, (b, Read(one, 0, 1, width)))
                self.graph.atoms[place] = Atom("add", width, (a, Read(last, 0, 1, width)))
                return

    def _sides(self, place: int) -> list[tuple[Read, Read]]:
        """What a sum that is but a part of another is made of, both ways round, the second column for column."""
        made = self.graph.atoms[place]
        plain = made.op == "add" and self.uses[place] == 1 and place not in self.graph.names
        sides = (made.args, made.args[::-1]) if plain else ()
        return [(rest, own) for rest, own in sides if aligned(own, made.width)]
