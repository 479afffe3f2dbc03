"""Weights: those of a program packed in the order in which its loops read them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cellwright.kernels.c.buffers import LINE, Sizes
from cellwright.kernels.c.render import Source
from cellwright.kernels.gradients import Leaves
from cellwright.program import Program
from cellwright.program.split import TIMED
from cellwright.step.atoms import Weight

LANES = 16  # of the widest vector
PACK = 13  # fields of a Pack in loops.h


class Order(NamedTuple):
    """What to pack: one weight into one slot of one term of a product."""

    stage: str
    place: int  # of the product among those packed
    weight: Weight
    sizes: tuple[int, ...]  # depth of the term, of those before, of all; columns, units, slot, slots


class Packed:
    """Packed weights, what they were made from, and how to make them again."""

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        self.memory = torch.empty(size, dtype=dtype)
        self.key: tuple[Any, ...] = ()
        self.jobs: array[int] = array("q")
        self.pieces: array[int] = array("q")
        self.found: array[int] = array("Q")
        self.known: array[int] = array("Q")
        self.addresses: array[int] = array("q")  # of vectors, then of packed products
        self.held: tuple[Any, ...] = ()  # the weights themselves

    def fields(self) -> tuple[int, ...]:
        """Of a call: pack, piece, found, known."""
        return tuple(one.buffer_info()[0] for one in (self.jobs, self.pieces, self.found, self.known))


class Weights:
    """Packs the weights of one program; in training always anew, else (in C) after their bytes changed.

    The counters that PyTorch keeps of changes in place miss some: those of fused optimizers and through `.data`.
    """

    def __init__(self, program: Program, code: Source) -> None:
        self.program, self.code = program, code
        self._orders = list(_orders(program, code))
        self._numbers = sorted({order.weight.value for order in self._orders} | {value for value, _ in code.weights})
        self._direct = {number: program.tape.direct(number) for number in self._numbers}
        self._others = [number for number, direct in self._direct.items() if direct is None]
        self.offsets, self.size = self._sizes()
        self._spare: dict[bool, list[Packed]] = {True: [], False: []}

    def _sizes(self) -> tuple[list[int], int]:
        """Where each product's weights start, in bytes, and how many numbers all of them are."""
        starts, size = [], 0
        for stage, place, number in self.code.packs:
            loop = self.program.stages[stage][place]
            product = loop.products[number]
            total = sum(arg.width for arg in product.inputs)
            starts.append(size * self.program.dtype.itemsize)
            size += -(-loop.width // LANES) * LANES * len(product.slots) * total
        return starts, size + LINE

    def take(self, leaves: Leaves, sizes: Sizes) -> Packed:
        """What to pack for a run, and where it will lie."""
        try:
            packed = self._spare[sizes.keep].pop()
        except IndexError:
            packed = Packed(self.size, self.program.dtype)
        sources = self._sources(leaves)
        tensors = list(sources.values())
        strides = [] if all(one.is_contiguous() for one in tensors) else [one.stride() for one in tensors]
        key = (sizes.few, sizes.columns, sizes.team, [one.data_ptr() for one in tensors], strides)
        if packed.key != key:
            self._plan(packed, sources, sizes)
            packed.key = key
        vectors = [self._vector(sources[value], value, dims) for value, dims in self.code.weights]
        packed.held = (sources, vectors)
        start = _start(packed.memory)
        packed.addresses = array("q", [one.data_ptr() for one in vectors])
        packed.addresses.extend([start + offset for offset in self.offsets])
        return packed

    def give(self, packed: Packed, keep: bool) -> None:
        """Take packed weights back when a run ended."""
        packed.held = ()
        self._spare[keep] = [packed]

    def _sources(self, leaves: Leaves) -> dict[int, Tensor]:
        """The tensors that hold the weights: parameters themselves, also where a step transposes them."""
        sources = {number: leaves(direct[0]) for number, direct in self._direct.items() if direct is not None}
        if self._others:
            replayed = self.program.tape.replay(self._others, leaves)
            sources |= {number: replayed[number].detach() for number in self._others}
        return sources

    def _value(self, source: Tensor, number: int) -> Tensor:
        direct = self._direct[number]
        return source.detach().t() if direct is not None and direct[1] else source.detach()

    def _vector(self, source: Tensor, number: int, dims: tuple[int, ...]) -> Tensor:
        direct = self._direct[number]
        if not dims and direct is not None and not direct[1] and source.is_contiguous():
            return source
        vector = self._value(source, number)
        for dim in dims:
            vector = vector.select(dim, 0).unsqueeze(dim)
        return vector.to(self.program.dtype).contiguous()

    def _plan(self, packed: Packed, sources: dict[int, Tensor], sizes: Sizes) -> None:
        """What to pack from where to where."""
        start = _start(packed.memory)
        packed.jobs, packed.pieces = array("q"), array("q")
        for order in self._orders:
            if sizes.keep or order.stage in ("before", "forward"):
                matrix = self._value(sources[order.weight.value], order.weight.value)[order.weight.place]
                matrix = matrix.t() if order.weight.transposed else matrix
                row, column = matrix.stride()
                from_ = matrix.data_ptr() + (order.weight.row * row + order.weight.column * column) * matrix.itemsize
                to = start + self.offsets[order.place]
                timed = order.stage in TIMED
                team = sizes.team if timed and sizes.columns else 1
                packed.jobs.extend((from_, row, column, to, *order.sizes, timed and sizes.few, team))
        for number in {order.weight.value for order in self._orders}:
            packed.pieces.extend((sources[number].data_ptr(), _span(sources[number])))
        count = max(sizes.team * len(packed.pieces) // 2, 1)
        packed.found, packed.known = array("Q", [0] * count), array("Q", [1] * count)


def _start(memory: Tensor) -> int:
    """The first line of a piece of memory."""
    return memory.data_ptr() + -memory.data_ptr() % LINE


def _span(tensor: Tensor) -> int:
    """The bytes from the first number of a tensor to its last."""
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.itemsize if tensor.numel() else 0


def _orders(program: Program, code: Source) -> Iterator[Order]:
    for packed, (stage, place, number) in enumerate(code.packs):
        loop = program.stages[stage][place]
        product = loop.products[number]
        total = sum(arg.width for arg in product.inputs)
        slots = len(product.slots)
        for slot, atom in enumerate(product.slots):
            before = 0
            for arg, weight in zip(product.inputs, program.graph.atoms[atom].detail, strict=True):
                sizes = (arg.width, before, total, loop.width, code.units[stage, place], slot, slots)
                yield Order(stage, packed, weight, sizes)
                before += arg.width
