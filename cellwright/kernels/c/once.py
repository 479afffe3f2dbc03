"""Once: what a run computes once: of weights alone, and gradients of weights from sums and products."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

from torch import Tensor

from cellwright.kernels.c.address import vector
from cellwright.kernels.c.elementwise import Expressions, Held, Made, Shape, Store, held_in, render
from cellwright.kernels.gradients import ALIGNED, Gradients, Strided, in_one_piece
from cellwright.program import Program
from cellwright.program.graph import labels


class Once(NamedTuple):
    """The C of that, and where its results lie."""

    text: str
    before: bool
    """Whether there is something to do before the loops, `once` in C."""
    after: bool
    """Whether there is after the products, `once_after` in C."""
    made: dict[int, Strided]
    """Values of the tape that are there before the loops, in memory that packed weights bring along."""
    size: int
    """How many numbers those take."""
    leaves: tuple[int, ...]
    """Values of the tape that are read for all this where they lie."""


def once(program: Program, gradients: Gradients) -> Once:
    """What C computes that PyTorch else would, before a run and after it: the gradients among it are given room."""
    places = _Places(program, gradients)
    before, after = list(_before(program, places)), list(_after(program, places, gradients))
    functions = (("once", before), ("once_after", after))
    text = "".join(render(name, stores) for name, stores in functions if stores)
    leaves = {held.leaf for store in (*before, *after) for held in held_in(store.made) if held.leaf is not None}
    return Once(text, bool(before), bool(after), places.made, places.size, tuple(sorted(leaves)))


class _Places:
    """Where values of the tape lie."""

    def __init__(self, program: Program, gradients: Gradients) -> None:
        self.tape, self.gradients, self.names = program.tape, gradients, labels(program.tape)
        self.dtype = program.dtype
        self.made: dict[int, Strided] = {}
        self.size = 0

    def room(self, value: int, shape: Shape) -> str:
        """Memory for a value that is made before the loops."""
        self.made[value] = (shape, in_one_piece(shape), self.size)
        self.size += -(-prod(shape) // ALIGNED) * ALIGNED
        return f"arg->c.made + {self.made[value][2]}"

    def held(self, value: int) -> Held | None:
        """The numbers in memory that a value is, if it is such."""
        leaf = self.tape.entries[value].leaf
        if value in self.made:
            return _held(f"value_{value}", "arg->c.made", self.made[value])
        if isinstance(leaf, tuple):
            place = self.gradients.place(leaf) if leaf[0] == "sum" or leaf[2] is None else None
            return None if place is None else _held(f"{leaf[0]}_{leaf[1]}", "arg->c.packed", place)
        shape = self._shape(value)
        if shape is None or len(shape) > 2:
            return None
        return Held(self.names.get(value, f"w{value}"), f"arg->{vector(value, ())}", shape, in_one_piece(shape), value)

    def _shape(self, value: int) -> Shape | None:
        """Of a parameter or constant of the type that is computed in."""
        entry = self.tape.entries[value]
        if isinstance(entry.leaf, Tensor):
            return tuple(entry.leaf.shape) if entry.leaf.dtype == self.dtype else None
        return entry.shape


def _held(name: str, memory: str, place: Strided) -> Held | None:
    shape, steps, start = place
    return Held(name, f"{memory} + {start}", shape, steps) if len(shape) <= 2 else None


def _before(program: Program, places: _Places) -> Iterator[Store]:
    """What loops read of weights that is no parameter as it is."""
    expressions = Expressions(program.tape, places.held)
    for value in sorted(_read(program)):
        root, _ = program.tape.root(value)
        made = expressions.of(root)
        if isinstance(made, Made) and root not in places.made:
            yield Store(f"value_{root}", places.room(root, made.shape), made)


def _after(program: Program, places: _Places, gradients: Gradients) -> Iterator[Store]:
    """The gradients of parameters that are no sum or product as it is."""
    expressions = Expressions(program.tape, places.held)
    for name, value in program.gradients.items():
        made = None if gradients.knows(name) else expressions.of(value)
        if isinstance(made, Made):
            yield Store(f"d{name}", f"arg->c.packed + {gradients.room(name, made.shape)}", made)


def _read(program: Program) -> set[int]:
    """The values of the tape that loops read."""
    found = {atom.detail[0] for atom in program.graph.atoms if atom.op == "weight"}
    return found | {weight.value for atom in program.graph.atoms if atom.op == "mm" for weight in atom.detail}
