"""Run: a compiled program on tensors: memory for its buffers, packed weights, and the calls."""

from __future__ import annotations

import ctypes
import weakref
from array import array
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cellwright.kernels.c.buffers import Packed, Pool, Saved
from cellwright.kernels.c.build import load
from cellwright.kernels.c.core import HEADERS, core
from cellwright.kernels.c.openmp import launch, thread_functions
from cellwright.kernels.c.render import Source, render
from cellwright.program import Program
from cellwright.program.places import Part, Place
from cellwright.step.atoms import Weight

PACK, INFER, TRAIN, BACKWARD = range(4)
CHUNK = 96  # rows, as in loops.h
LANES = 64  # at most: the packed weights are padded to whole vectors of it
Leaves = Callable[[Any], Tensor]


class Fused:
    """A program compiled for this machine."""

    def __init__(self, program: Program, title: str) -> None:
        self.program = program
        self.code: Source = render(program, title)
        self.library = load(self.code.text, HEADERS)
        self.core = core(program.dtype)
        self.library.connect(ctypes.byref(self.core))
        self._packed: Packed | None = None
        self._pool = Pool()
        self.constants = [entry.leaf for entry in program.tape.entries if isinstance(entry.leaf, Tensor)]
        self._orders = list(_orders(program, self.code))
        self._weights = {value for value, _ in self.code.weights} | {order.weight.value for order in self._orders}
        self._direct = {number: program.tape.direct(number) for number in self._weights}
        self._gradient = {name: program.tape.direct(number) for name, number in program.gradients.items()}
        self._jobs: tuple[Any, list[int]] = ((), [])

    # Forward.

    def forward(
        self, x: Tensor, states: tuple[Tensor, ...], key: tuple[Any, ...], leaves: Leaves, keep: bool
    ) -> tuple[Tensor, tuple[Tensor, ...], Saved]:
        """y (T, B, O), the final states and what backward needs; `key` changes whenever a leaf does."""
        program, (T, B) = self.program, (int(x.shape[0]), int(x.shape[1]))
        packed = self.packed(key, leaves, keep)
        buffers = {"x": x.contiguous()}
        pooled: dict[str, Tensor] = {}
        for place, width in enumerate(program.widths):
            shown = place == 0 and not program.has_y  # y is this buffer, and the user's
            name, depth = f"state{place}", T + 1 if keep or shown else 2
            buffers[name] = x.new_empty(depth, B, width) if shown else self._pool.take(name, x, depth, B, width)
            buffers[name][0] = states[place]
            if not shown:
                pooled[name] = buffers[name]
        if program.has_y:
            buffers["y"] = x.new_empty(T, B, program.output_size)
        used = {home.buffer for atom in program.inferred for home in program.homes.get(atom, ())}
        for name in ("d", "kept", "hoisted"):
            if program.buffers[name].width and (keep or name in used):
                rows = B if self._one_step(T, B, keep) else T * B
                pooled[name] = buffers[name] = self._pool.take(name, x, rows, program.buffers[name].width)
        self._call(TRAIN if keep else INFER, T, B, buffers, packed)
        y = buffers["y"] if program.has_y else buffers["state0"][1:]
        last = tuple(buffers[f"state{place}"][T % buffers[f"state{place}"].shape[0]] for place in range(len(states)))
        saved = Saved(buffers, packed, (T, B))
        weakref.finalize(saved, self._pool.give, pooled).atexit = False
        return y, last, saved

    # Backward.

    def backward(
        self, saved: Saved, dy: Tensor | None, dlast: list[Tensor | None], leaves: Leaves, wanted: list[str]
    ) -> tuple[Tensor | None, list[Tensor], dict[str, Tensor]]:
        """Gradients of x, of the first states and of the wanted parameters; uses up what was saved."""
        program, (T, B) = self.program, saved.sizes
        like = saved.buffers["x"]
        buffers = dict(saved.buffers)
        buffers["dy"] = like.new_zeros(T, B, program.output_size) if dy is None else dy.contiguous()
        for place, width in enumerate(program.widths):
            carry = buffers[f"dstate{place}"] = like.new_zeros(2, B, width)
            given = dlast[place]
            if given is not None:
                carry[(T - 1) % 2] = given
        if program.needs_x:
            buffers["dx"] = like.new_empty(T, B, program.input_size)
            if "dx" not in program.graph.outputs:
                buffers["dx"].zero_()
        team = self._team(T, B)
        buffers["sums"] = like.new_zeros(team, 2, program.buffers["sums"].width)
        results = [like.new_empty(block.rows, block.columns) for block in program.blocks]
        self._call(BACKWARD, T, B, buffers, saved.packed, results)
        sums = buffers["sums"][:, 1].sum(0)
        dstates = [buffers[f"dstate{place}"][1] for place in range(len(program.widths))]
        return buffers.get("dx"), dstates, self._gradients(results, sums, T * B, leaves, wanted)

    def _gradients(
        self, results: list[Tensor], sums: Tensor, rows: int, leaves: Leaves, wanted: list[str]
    ) -> dict[str, Tensor]:
        program = self.program

        def leaf(name: Any) -> Tensor:
            if not isinstance(name, tuple):
                return leaves(name)
            kind, number, detail = name
            if kind == "sum":
                parts = [_summed(part, sums, rows) for part in program.batch_sums[number]]
                return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(detail)
            one = [_assemble(program.products[number + k], results) for k in range(detail or 1)]
            return one[0] if detail is None else torch.stack(one)

        found: dict[str, Tensor] = {}
        others: dict[str, int] = {}
        for name in wanted:
            direct = self._gradient.get(name)
            if direct is not None:
                found[name] = leaf(direct[0]).t() if direct[1] else leaf(direct[0])
            elif name in program.gradients:
                others[name] = program.gradients[name]
        values = program.tape.replay(others.values(), leaf) if others else {}
        return found | {name: values[number] for name, number in others.items()}

    # Weights.

    def packed(self, key: tuple[Any, ...], leaves: Leaves, keep: bool) -> Packed:
        """The weights in the order of the loops: in training always anew, else only after they changed."""
        if keep:
            return self._pack(key, leaves, keep)
        found = self._packed
        if found is None or found.key != key:
            found = self._packed = self._pack(key, leaves, keep)
        return found

    def _pack(self, key: tuple[Any, ...], leaves: Leaves, keep: bool) -> Packed:
        program = self.program
        values = self._values(leaves)
        vectors = {}
        for value, dims in self.code.weights:
            vector = values[value]
            for dim in dims:
                vector = vector.select(dim, 0).unsqueeze(dim)
            vectors[f"w{value}" + "".join(f"_{d}" for d in dims)] = vector.to(program.dtype).contiguous()
        orders = [order for order in self._orders if keep or order.stage in ("before", "forward")]
        sizes = {order.name: order.size for order in orders}
        like = next(iter(values.values()), torch.empty(0, dtype=program.dtype))
        whole = {name: self._pool.take(name, like, size) for name, size in sizes.items()}
        packed = Packed(key, vectors, whole, values)
        weakref.finalize(packed, self._pool.give, whole).atexit = False
        if orders:
            self._launch(
                PACK, 0, 0, {}, packed, jobs=self._pack_jobs(orders, values, whole), team=torch.get_num_threads()
            )
        return packed

    def _values(self, leaves: Leaves) -> dict[int, Tensor]:
        """The weights as the step uses them: most are parameters as they are, or transposed."""
        values: dict[int, Tensor] = {}
        for number, direct in self._direct.items():
            if direct is not None:
                leaf = leaves(direct[0]).detach()
                values[number] = leaf.t() if direct[1] else leaf
        others = self._weights - set(values)
        replayed = self.program.tape.replay(others, leaves) if others else {}
        return values | {number: replayed[number].detach() for number in others}

    def _pack_jobs(self, orders: list[Order], values: dict[int, Tensor], whole: dict[str, Tensor]) -> list[int]:
        """What to pack from where to where: the same list as before while nothing moved."""
        places = (*((v.data_ptr(), v.stride()) for v in values.values()), *(t.data_ptr() for t in whole.values()))
        if self._jobs[0] != places:
            jobs: list[int] = []
            for order in orders:
                matrix = values[order.weight.value][order.weight.place]
                matrix = matrix.t() if order.weight.transposed else matrix
                row, column = matrix.stride()
                offset = (order.weight.row * row + order.weight.column * column) * matrix.element_size()
                jobs += [matrix.data_ptr() + offset, row, column, whole[order.name].data_ptr(), *order.sizes]
            self._jobs = (places, jobs)
        return self._jobs[1]

    # Calls.

    def _team(self, T: int, B: int) -> int:
        return torch.get_num_threads()

    def _by_columns(self, T: int, B: int) -> bool:
        """Whether threads share the columns of every row, or each takes rows of its own."""
        team = self._team(T, B)
        return team > 1 and 6 * team > B

    def _one_step(self, T: int, B: int, keep: bool) -> bool:
        """Whether what is hoisted is made step by step and dropped: where rows are split and nothing is kept."""
        return not keep and not self._by_columns(T, B)

    def _call(
        self, job: int, T: int, B: int, buffers: dict[str, Tensor], packed: Packed, results: list[Tensor] | None = None
    ) -> None:
        program = self.program
        team = self._team(T, B)
        like = buffers["x"]
        rows = max(B, team * CHUNK)
        if program.buffers["scratch"].width:
            buffers["scratch"] = like.new_empty(rows, program.buffers["scratch"].width)
        reductions = like.new_empty(max(len(self.code.reductions), 1) * team * rows)
        blocks: list[int] = []
        size = 0
        for block, result in zip(program.blocks, results or [], strict=bool(results)):
            blocks += [*self._address(block.left, buffers), *self._address(block.right, buffers)]
            blocks += [result.data_ptr(), block.rows, block.columns]
            size = max(size, self.core.contract_scratch(T * B, block.rows, block.columns))
        contract = like.new_empty(team * size + 64)
        extra = {"reductions": reductions, "contract": contract}
        self._launch(job, T, B, buffers, packed, blocks=blocks, extra=extra, rows=rows, size=size, team=team)

    def _address(self, place: Place, buffers: dict[str, Tensor]) -> tuple[int, int]:
        buffer = buffers[place.buffer]
        skipped = buffer[0].numel() if place.when == "new" else 0
        offset = (place.column + skipped) * buffer.element_size()
        return buffer.data_ptr() + offset, self.program.buffers[place.buffer].width

    def _launch(
        self,
        job: int,
        T: int,
        B: int,
        buffers: dict[str, Tensor],
        packed: Packed,
        jobs: list[int] | None = None,
        blocks: list[int] | None = None,
        extra: dict[str, Tensor] | None = None,
        rows: int = 0,
        size: int = 0,
        team: int = 1,
    ) -> None:
        program = self.program
        jobs, blocks, extra = jobs or [], blocks or [], extra or {}
        pack, block, barrier = array("q", jobs), array("q", blocks), array("q", [0] * 32)
        start = barrier.buffer_info()[0]
        wraps = [1 if buffers and buffers[f"state{k}"].shape[0] == 2 else -1 for k in range(len(program.widths))]
        columns = int(self._by_columns(T, B))
        hold = 0 if job == INFER and not columns else B
        values = [T, B, job, columns, rows, len(jobs) // 11, len(blocks) // 7, team, size, hold, *wraps]
        values += thread_functions()
        values += [start + -start % 64, pack.buffer_info()[0], block.buffer_info()[0]]
        values += [extra[name].data_ptr() if name in extra else 0 for name in ("contract", "reductions")]
        tensors = {**buffers, **packed.vectors, **packed.whole}
        values += [tensors[name].data_ptr() if name in tensors else 0 for name in self.code.fields]
        argument = array("q", values)
        launch(self.library.run, argument.buffer_info()[0], team)


class Order(NamedTuple):
    """What to pack: one weight into one slot of one term of a product."""

    stage: str
    name: str
    size: int  # of the packed product, in numbers
    weight: Weight
    sizes: tuple[int, ...]  # depth of the term, of those before, of all; columns, units, slot, slots


def _orders(program: Program, code: Source) -> Iterator[Order]:
    for stage, place, number in code.packs:
        loop = program.stages[stage][place]
        product = loop.products[number]
        total = sum(arg.width for arg in product.inputs)
        slots = len(product.slots)
        size = -(-loop.width // LANES) * LANES * 4 * slots * total
        for slot, atom in enumerate(product.slots):
            before = 0
            for arg, weight in zip(product.inputs, program.graph.atoms[atom].detail, strict=True):
                sizes = (arg.width, before, total, loop.width, code.units[stage, place], slot, slots)
                yield Order(stage, f"p_{stage}_{place}_{number}", size, weight, sizes)
                before += arg.width


def _summed(part: tuple[int, int] | float, sums: Tensor, rows: int) -> Tensor:
    if isinstance(part, tuple):
        return sums[part[0] : part[0] + part[1]]
    return sums.new_full((1,), part * rows)


def _assemble(parts: tuple[tuple[Part, ...], ...], results: list[Tensor]) -> Tensor:
    lines = []
    for line in parts:
        cells = [results[p.block][p.row : p.row + p.rows, p.column : p.column + p.columns] for p in line]
        lines.append(cells[0] if len(cells) == 1 else torch.cat(cells, 1))
    return lines[0] if len(lines) == 1 else torch.cat(lines)
