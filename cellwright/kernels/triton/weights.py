"""Weights: all that kernels read of a cell's weights, in their order, gathered by one index."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellwright.kernels.gradients import Leaves
from cellwright.kernels.triton.render import Source, slots_of
from cellwright.kernels.triton.tiles import Tiles
from cellwright.kernels.triton.values import vector
from cellwright.program.loops import Loop, Product
from cellwright.program.program import Program
from cellwright.program.split import STAGES, TIMED
from cellwright.step.atoms import Weight

Numbers = NDArray[np.int64]


class Order(NamedTuple):
    """Where in the flat weights, one after the other, each number of the packed ones is; and each pack's shape."""

    places: Tensor
    shapes: dict[str, tuple[int, ...]]


class Weights:
    """The weights of one program."""

    def __init__(self, program: Program, code: Source) -> None:
        self.program, self.code = program, code
        products = [p for stage in STAGES for loop in program.stages[stage] for p in loop.products]
        pieces = [weight for p in products for slot in p.slots for weight in program.graph.atoms[slot].detail]
        self.numbers = sorted({weight.value for weight in pieces} | {value for value, _ in code.vectors})
        self._direct = {number: program.tape.direct(number) for number in self.numbers}
        self._orders: dict[object, Order] = {}

    def pack(self, leaves: Leaves, tiles: dict[str, Tiles], dtype: torch.dtype) -> dict[str, Tensor]:
        """Vectors and matrices by the names that kernels have for them."""
        sources = self._sources(leaves)
        if not sources:
            return {}
        key = (tuple(tiles.values()), sources[0].device)
        if key not in self._orders:
            self._orders[key] = self._order(sources, tiles)
        order = self._orders[key]
        flat = torch.cat([*(source.reshape(-1).to(dtype) for source in sources), sources[0].new_zeros(1, dtype=dtype)])
        packed = torch.split(flat[order.places], [int(np.prod(shape)) for shape in order.shapes.values()])
        return {name: one.view(shape) for (name, shape), one in zip(order.shapes.items(), packed, strict=True)}

    def _sources(self, leaves: Leaves) -> list[Tensor]:
        direct = {number: leaves[found[0]].detach() for number, found in self._direct.items() if found is not None}
        others = [number for number in self.numbers if number not in direct]
        with torch.no_grad():
            replayed = self.program.tape.replay(others, leaves.__getitem__) if others else {}
        return [direct[number] if number in direct else replayed[number].detach() for number in self.numbers]

    def _order(self, sources: list[Tensor], tiles: dict[str, Tiles]) -> Order:
        flat, start = {}, 0
        for number, source in zip(self.numbers, sources, strict=True):
            found = np.arange(start, start + source.numel(), dtype=np.int64).reshape(tuple(source.shape))
            direct = self._direct[number]
            flat[number] = found.T if direct is not None and direct[1] else found
            start += source.numel()
        packs = {f"at_{vector(*one)}": _vector(flat[one[0]], one[1]) for one in self.code.vectors}
        for stage in STAGES:
            for place, loop in enumerate(self.program.stages[stage]):
                if stage not in TIMED:
                    packs |= {f"at_p_{stage}_{place}": self._flat(loop, flat)} if loop.products else {}
                    continue
                for which, product in enumerate(loop.products):
                    packs[f"at_p_{stage}_{place}_{which}"] = self._tiled(
                        product, loop, place, tiles[stage], flat, start
                    )
        index = np.concatenate([pack.reshape(-1) for pack in packs.values()])
        return Order(torch.from_numpy(index).to(sources[0].device), {name: one.shape for name, one in packs.items()})

    def _flat(self, loop: Loop, flat: dict[int, Numbers]) -> Numbers:
        """The weights of a pass before or after the loops, for a library: the terms' rows of every product in turn."""
        rows = [
            np.concatenate([self._piece(slot, term, loop, flat) for slot in product.slots], axis=1)
            for product in loop.products
            for term in range(len(product.inputs))
        ]
        return np.concatenate([row.reshape(-1) for row in rows])

    def _piece(self, slot: int, term: int, loop: Loop, flat: dict[int, Numbers]) -> Numbers:
        atom = self.program.graph.atoms[slot]
        weight: Weight = atom.detail[term]
        matrix = flat[weight.value][weight.place]
        matrix = matrix.T if weight.transposed else matrix
        rows, columns = (
            slice(weight.row, weight.row + atom.args[term].width),
            slice(weight.column, weight.column + loop.width),
        )
        found: Numbers = matrix[rows, columns]
        return found

    def _tiled(
        self, product: Product, loop: Loop, place: int, tile: Tiles, flat: dict[int, Numbers], nothing: int
    ) -> Numbers:
        """(parts, depth, columns * slots): a program's columns together, the slots of a column side by side."""
        columns, slots = tile.columns[place], slots_of(product)
        depths = [-(-arg.width // tile.depth) * tile.depth for arg in product.inputs]
        found = np.full((sum(depths), tile.parts * columns, slots), nothing, np.int64)
        for number, slot in enumerate(product.slots):
            row = 0
            for term, (arg, depth) in enumerate(zip(product.inputs, depths, strict=True)):
                found[row : row + arg.width, : loop.width, number] = self._piece(slot, term, loop, flat)
                row += depth
        split = found.reshape(sum(depths), tile.parts, columns * slots)
        return np.ascontiguousarray(split.transpose(1, 0, 2))


def _vector(found: Numbers, dims: tuple[int, ...]) -> Numbers:
    whole = tuple(slice(0, 1) if dim in dims else slice(None) for dim in range(found.ndim))
    return found[whole].reshape(-1)
