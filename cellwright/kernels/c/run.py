"""Run: a compiled program on tensors: memory for its buffers, packed weights, and the calls."""

from __future__ import annotations

import ctypes
import weakref
from array import array
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cellwright.kernels.c.buffers import Packed, Pool, Saved
from cellwright.kernels.c.build import load
from cellwright.kernels.c.core import HEADERS, core
from cellwright.kernels.c.openmp import launch, thread_functions
from cellwright.kernels.c.render import Source, render
from cellwright.program import Program
from cellwright.program.places import Part, Place

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
        graph = program.graph
        self._weights = {value for value, _ in self.code.weights}
        for stage, place, number in self.code.packs:
            for slot in program.stages[stage][place].products[number].slots:
                self._weights |= {w.value for w in graph.atoms[slot].detail}

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

        numbers = {name: program.gradients[name] for name in wanted if name in program.gradients}
        values = program.tape.replay(numbers.values(), leaf)
        return {name: values[number] for name, number in numbers.items()}

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
        program, graph = self.program, self.program.graph
        values = {n: v.detach() for n, v in program.tape.replay(self._weights, leaves).items() if n in self._weights}
        vectors = {}
        for value, dims in self.code.weights:
            vector = values[value]
            for dim in dims:
                vector = vector.select(dim, 0).unsqueeze(dim)
            vectors[f"w{value}" + "".join(f"_{d}" for d in dims)] = vector.to(program.dtype).contiguous()
        whole, jobs, alive = {}, [], []
        for stage, place, number in self.code.packs:
            if not keep and stage in ("backward", "after"):
                continue
            loop = program.stages[stage][place]
            product = loop.products[number]
            total = sum(arg.width for arg in product.inputs)
            padded = -(-loop.width // LANES) * LANES * 4
            slots = len(product.slots)
            name = f"p_{stage}_{place}_{number}"
            to = whole[name] = self._pool.take(name, next(iter(values.values())), padded * slots * total)
            for slot, atom in enumerate(product.slots):
                before = 0
                for arg, weight in zip(product.inputs, graph.atoms[atom].detail, strict=True):
                    matrix = values[weight.value][weight.place]
                    matrix = matrix.t() if weight.transposed else matrix
                    alive.append(matrix)
                    row, column = matrix.stride()
                    first = matrix.data_ptr() + (weight.row * row + weight.column * column) * matrix.element_size()
                    job = [first, row, column, to.data_ptr(), arg.width, before, total, loop.width]
                    jobs += [*job, self.code.units[stage, place], slot, slots]
                    before += arg.width
        packed = Packed(key, vectors, whole, values)
        weakref.finalize(packed, self._pool.give, whole).atexit = False
        if jobs:
            self._launch(PACK, 0, 0, {}, packed, jobs=jobs, team=torch.get_num_threads())
        return packed

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
