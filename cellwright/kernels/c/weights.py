"""Weights: those of a program packed in the order in which its loops read them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cellwright.kernels.c.buffers import Sizes
from cellwright.kernels.c.packing import BLOCK
from cellwright.kernels.c.pages import large_pages
from cellwright.kernels.c.render import Source
from cellwright.kernels.gradients import Leaves
from cellwright.program import Program
from cellwright.program.split import EARLY, TIMED
from cellwright.step.atoms import Weight

PACK = 16  # fields of a Pack in loops.h


class Order(NamedTuple):
    """What to pack: one weight into one slot of one term of a product."""

    stage: str
    place: int  # of the product among those packed
    weight: Weight
    sizes: tuple[int, ...]  # depth of the term, of those before, of all; columns, units, slot, slots
    blocks: tuple[int, int]  # of the terms before, of all, in thirds


class Packed:
    """Packed weights: what they are made from, how to make them, and the memory of those that last from run to run."""

    def __init__(self, memory: Tensor, once: int) -> None:
        self.memory = memory
        self.once = torch.empty(once, dtype=memory.dtype)  # what C makes of weights alone
        self.made: list[Tensor] = []  # values in there
        self.key: tuple[Any, ...] = ()
        self.jobs: array[int] = array("q")
        self.late: array[int] = array("q")  # the same for backward
        self.pieces: array[int] = array("q")
        self.found: array[int] = array("Q")
        self.known: array[int] = array("Q")
        self.plain: array[int] = array("i", [0])
        self.read: tuple[int, ...] = ()  # addresses of the tensors with what is read as it is, and whether it is there
        self.vectors: tuple[int, ...] = ()  # and of what is read
        self.replayed: dict[int, Tensor] = {}  # values of the tape that gradients are made from too
        self.fields: tuple[int, ...] = ()  # of a call: pack, piece, found, known, plain, made
        self.held: tuple[Any, ...] = ()  # the weights themselves


class Weights:
    """Packs the weights of one program; in training always anew, else (in C) after their bytes changed.

    The counters that PyTorch keeps of changes in place miss some: those of fused optimizers and through `.data`.
    """

    def __init__(self, program: Program, code: Source) -> None:
        self.program, self.code = program, code
        self._orders = list(_orders(program, code))
        self._numbers = sorted({order.weight.value for order in self._orders} | {value for value, _ in code.weights})
        self._root = {number: program.tape.root(number) for number in self._numbers}
        leaf = {number: program.tape.entries[root].function is None for number, (root, _) in self._root.items()}
        direct = [number for number in self._numbers if leaf[number]]
        made = [number for number in self._numbers if self._root[number][0] in code.once.made]
        self._others = [number for number in self._numbers if number not in (*direct, *made)]
        self._order = [*direct, *made, *self._others]
        self._names = [program.tape.entries[self._root[number][0]].leaf for number in direct]
        self._made = [code.once.made[self._root[number][0]] for number in made]
        self._packed = [place for place, n in enumerate(self._order) if any(n == o.weight.value for o in self._orders)]
        self._read = [self._order.index(number) for number, _ in code.weights]
        self._again = _again(program, self._others)
        self._whole = all(self._is_whole(value, dims) for value, dims in code.weights)
        self.each_step = code.packing.each_step * program.dtype.itemsize  # bytes that a loop reads
        self._spare: dict[tuple[bool, bool], list[Packed]] = {}

    def take(self, leaves: Leaves, sizes: Sizes) -> Packed:
        """What to pack for a run; where no backward follows also where, for then it may be packed already."""
        try:
            packed = self._spare[sizes.keep, sizes.thirds].pop()
        except (KeyError, IndexError):
            size = 0 if sizes.keep else (self.code.thirds if sizes.thirds else self.code.packing).size
            packed = Packed(large_pages(torch.empty(size, dtype=self.program.dtype)), self.code.once.size)
            packed.made = [packed.once.as_strided(*place) for place in self._made]
        tensors, packed.replayed = self._sources(leaves, packed.made)
        self._point(packed, tensors, sizes)
        return packed

    def late(self, packed: Packed, sizes: Sizes, argument: array[int]) -> array[int]:
        """What to pack for a backward run, over what its forward run needed.

        Args:
            packed: of the forward run.
            sizes: of the run.
            argument: of its call, which is set right if weights lie elsewhere by now.
        """
        tensors = packed.held[0]
        if (packed.key, packed.read) != (self._key(tensors, sizes), self._places(tensors)):
            vectors = self._point(packed, tensors, sizes)
            argument[len(argument) - len(vectors) :] = array("q", vectors)
        return packed.late

    def _point(self, packed: Packed, tensors: list[Tensor], sizes: Sizes) -> tuple[int, ...]:
        """Let all addresses be those where weights lie now; of them those that are read as they are."""
        key, read = self._key(tensors, sizes), self._places(tensors)
        packed.held = (tensors,)
        if packed.key != key:
            self._plan(packed, dict(zip(self._order, tensors, strict=True)), sizes)
            packed.key = key
        if packed.read != read or not read[-1]:
            found = zip(self._read, self.code.weights, strict=True)
            vectors = [self._vector(tensors[place], value, dims) for place, (value, dims) in found]
            packed.held, packed.vectors = (tensors, vectors), tuple(map(Tensor.data_ptr, vectors))
            packed.read = read
        return packed.vectors

    def give(self, packed: Packed, sizes: Sizes) -> None:
        """Take packed weights back when a run ended."""
        packed.held, packed.replayed = (), {}
        self._spare[sizes.keep, sizes.thirds] = [packed]

    def _key(self, tensors: list[Tensor], sizes: Sizes) -> tuple[Any, ...]:
        """What a plan follows from."""
        packed = [tensors[place] for place in self._packed]
        strides = () if all(map(Tensor.is_contiguous, packed)) else tuple(map(Tensor.stride, packed))
        return (sizes.few, sizes.columns, sizes.thirds, sizes.team, *map(Tensor.data_ptr, packed), strides)

    def _places(self, tensors: list[Tensor]) -> tuple[int, ...]:
        """Where the tensors lie that hold what is read as it is; and whether all of it can be read there."""
        found = [tensors[place] for place in self._read]
        return (*map(Tensor.data_ptr, found), self._whole and all(map(self._lies, found)))

    def _sources(self, leaves: Leaves, made: list[Tensor]) -> tuple[list[Tensor], dict[int, Tensor]]:
        """The tensors that hold the weights: parameters themselves, also where a step transposes them; those that C
        makes of them; then others.

        And of the values on the way to those, what gradients need again.
        """
        tensors, replayed = [*map(leaves.__getitem__, self._names), *made], {}
        if self._others:
            found = self.program.tape.replay(self._others, leaves.__getitem__)
            tensors += [found[number].detach() for number in self._others]
            replayed = {number: found[number] for number in self._again}
        if any(map(Tensor.is_neg, tensors)):
            tensors = [tensor.resolve_neg() for tensor in tensors]
        return tensors, replayed

    def _is_whole(self, number: int, dims: tuple[int, ...]) -> bool:
        """Whether a vector is read where its tensor lies."""
        return not dims and not self._flipped(number)

    def _flipped(self, number: int) -> bool:
        """Whether a value is the transpose of the tensor that holds it."""
        return self._root[number][1] and number not in self._others

    def _lies(self, source: Tensor) -> bool:
        """Whether its numbers lie as loops read them."""
        return source.dtype == self.program.dtype and source.is_contiguous()

    def _value(self, source: Tensor, number: int) -> Tensor:
        return source.detach().t() if self._flipped(number) else source.detach()

    def _vector(self, source: Tensor, number: int, dims: tuple[int, ...]) -> Tensor:
        if self._is_whole(number, dims) and self._lies(source):
            return source
        vector = self._value(source, number)
        for dim in dims:
            vector = vector.select(dim, 0).unsqueeze(dim)
        return vector.to(self.program.dtype).contiguous()

    def _plan(self, packed: Packed, sources: dict[int, Tensor], sizes: Sizes) -> None:
        """What to pack from where to where."""
        packed.jobs, packed.late, packed.pieces = array("q"), array("q"), array("q")
        for order in self._orders:
            early = order.stage in EARLY
            if sizes.keep or early:
                matrix = self._value(sources[order.weight.value], order.weight.value)[order.weight.place]
                matrix = matrix.t() if order.weight.transposed else matrix
                row, column = matrix.stride()
                from_ = matrix.data_ptr() + (order.weight.row * row + order.weight.column * column) * matrix.itemsize
                to = self.code.packing.starts[order.place]
                timed = order.stage in TIMED
                few, team = timed and sizes.few[not early], sizes.team if timed and sizes.columns[not early] else 1
                jobs = packed.jobs if early else packed.late
                apart = (self.code.thirds.starts[order.place], *order.blocks)
                jobs.extend((from_, row, column, to, *order.sizes, few, team, *apart))
        for number in {order.weight.value for order in self._orders}:
            packed.pieces.extend((sources[number].data_ptr(), _span(sources[number])))
        count = max(sizes.team * len(packed.pieces) // 2, 1)
        packed.found, packed.known = array("Q", [0] * count), array("Q", [1] * count)
        tables = (packed.jobs, packed.pieces, packed.found, packed.known, packed.plain)
        packed.fields = (*(table.buffer_info()[0] for table in tables), packed.once.data_ptr())


def _again(program: Program, numbers: list[int]) -> list[int]:
    """Of the values on the way to these, those that gradients need too, and that lie in memory of their own."""
    tape = program.tape
    both = tape.ancestors(numbers) & tape.ancestors(program.gradients.values())
    functions = {number: tape.entries[number].function for number in both}
    return sorted(n for n, made in functions.items() if made is not None and not getattr(made, "is_view", False))


def _span(tensor: Tensor) -> int:
    """The bytes from the first number of a tensor to its last."""
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.itemsize if tensor.numel() else 0


def _orders(program: Program, code: Source) -> Iterator[Order]:
    for packed, (stage, place, number) in enumerate(code.packs):
        loop = program.stages[stage][place]
        product = loop.products[number]
        total = sum(arg.width for arg in product.inputs)
        blocks = sum(-(-arg.width // BLOCK) for arg in product.inputs)
        slots = len(product.slots)
        for slot, atom in enumerate(product.slots):
            before = above = 0
            for arg, weight in zip(product.inputs, program.graph.atoms[atom].detail, strict=True):
                sizes = (arg.width, before, total, loop.width, code.units[stage, place], slot, slots)
                yield Order(stage, packed, weight, sizes, (above, blocks))
                before += arg.width
                above += -(-arg.width // BLOCK)
