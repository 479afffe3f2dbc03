"""Run: a program's kernels on tensors: memory, launches, and the products before and after the loops."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import ModuleType
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from cellwright.kernels.gradients import Gradients, Leaves
from cellwright.kernels.triton.build import module
from cellwright.kernels.triton.render import render
from cellwright.kernels.triton.target import interpreted
from cellwright.kernels.triton.tiles import Tiles, machine, tiles
from cellwright.kernels.triton.values import SUMMED, Values
from cellwright.kernels.triton.weights import Weights
from cellwright.program.places import Place
from cellwright.program.program import Program
from cellwright.program.split import STAGES, TIMED
from cellwright.step import Ragged
from cellwright.step.atoms import Read

COMPUTED = {torch.float64: torch.float64}  # in what a type is computed, where not in float32
TYPES = {torch.float32: tl.float32, torch.float64: tl.float64, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
EARLY = ("before", "forward")


@dataclass
class Saved:
    """A run: its memory and layout; what forward leaves for backward."""

    T: int
    B: int
    rows: int
    keep: bool
    apart: bool
    memory: dict[str, Tensor]
    x: Tensor


class Launched:
    """A program as kernels for a GPU, compiled at its first run."""

    def __init__(self, program: Program, title: str) -> None:
        self.program = program
        self.values = Values(program)
        self.code = render(self.values, title)
        self.weights = Weights(program, self.code)
        self.gradients = Gradients(program)
        multiplied = {
            arg.atom for stage in TIMED for loop in program.stages[stage] for p in loop.products for arg in p.inputs
        }
        atoms = [program.graph.atoms[atom] for atom in multiplied]
        self.multiplied = {f"state{atom.detail}" for atom in atoms if atom.op == "state"}

    @cached_property
    def module(self) -> ModuleType:
        """The kernels."""
        return module(self.code.text)

    # Forward.

    def forward(
        self, x: Tensor, states: tuple[Tensor, ...], leaves: Leaves, keep: bool, ragged: Ragged | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...], Saved]:
        """y, laid out like x, the final states, each (B, H), and what backward needs.

        Args:
            x: inputs (T, B, I); where ragged is given, (N, I).
            states: before the first step, each (B, H).
            leaves: the parameters by name.
            keep: whether backward will follow.
            ragged: which rows are which step's.
        """
        with _alone_on(x.device):
            return self._forward(x.contiguous(), states, leaves, keep, ragged)

    def _forward(
        self, x: Tensor, states: tuple[Tensor, ...], leaves: Leaves, keep: bool, ragged: Ragged | None
    ) -> tuple[Tensor, tuple[Tensor, ...], Saved]:
        B = states[0].shape[0]
        T = x.shape[0] if ragged is None else len(ragged.starts) - 1
        rows = x.numel() // x.shape[-1] if ragged is None else x.shape[0]
        saved = Saved(T, B, rows, keep, ragged is not None, {"at_x": x}, x)
        self._allocate(saved, states, ragged)
        layout = self._tiles(saved)
        saved.memory |= self.weights.pack(leaves, layout, x.dtype)
        for stage in EARLY:
            self._stage(stage, saved, layout)
        y = saved.memory["at_y" if self.program.has_y else "at_state0_new"]
        ends = _ends(ragged, B).to(x.device) if ragged is not None else slice(rows - B, rows)
        last = tuple(saved.memory[f"at_state{k}_new"][ends].to(x.dtype, copy=True) for k in range(len(states)))
        return _own(y.to(x.dtype), (*x.shape[:-1], self.program.output_size)), last, saved

    def _allocate(self, saved: Saved, states: tuple[Tensor, ...], ragged: Ragged | None) -> None:
        """The memory of a run. Before a state's rows are those of its beginning; where rows end or begin anew, what
        steps begin with lies apart."""
        x, memory, rows, B = saved.x, saved.memory, saved.rows, saved.B
        real = self._real(saved)
        starts = _even(saved.T, B, x.device) if ragged is None else ragged.starts
        memory["at_starts"] = starts if ragged is None else torch.cat([starts, starts[-1:]]).to(x.device)
        memory["at_all"] = _even(1, rows, x.device)
        resets = None if ragged is None else ragged.resets
        memory["at_resets"] = x.new_zeros(rows, dtype=torch.uint8) if resets is None else resets.contiguous()
        for k, state in enumerate(states):
            name = f"state{k}"
            kind = x.dtype if name in self.multiplied else real
            first = state.to(kind)
            if resets is not None:
                first = first.masked_fill(resets[:B, None] != 0, 0.0)
            if saved.apart:
                memory[f"at_{name}_new"], old = (x.new_empty(rows, state.shape[1], dtype=kind) for _ in range(2))
                old[:B] = first
            else:
                whole = x.new_empty(rows + B, state.shape[1], dtype=kind)
                whole[:B] = first
                memory[f"at_{name}_new"], old = whole[B:], whole
            memory[f"at_{name}_old"] = old
        for name in ("y", "d", "kept", "hoisted"):
            if self.values.widths[name] and (name != "y" or self.program.has_y):
                memory[f"at_{name}"] = x.new_empty(rows, self.values.widths[name])
        flat = any(self.program.locals[stage] for stage in STAGES if stage not in TIMED)
        memory["at_scratch"] = x.new_empty(
            max(rows, 2 * B) if flat else 2 * B, self.values.widths["scratch"], dtype=real
        )

    def _tiles(self, saved: Saved) -> dict[str, Tiles]:
        on, size = machine(saved.x.device), saved.x.element_size()
        stages = [stage for stage in STAGES if self.program.stages[stage]]
        sizes = {stage: saved.B if stage in TIMED else saved.rows for stage in stages}
        return {stage: tiles(self.program, stage, sizes[stage], size, on) for stage in stages}

    # One stage.

    def _stage(self, stage: str, saved: Saved, layout: dict[str, Tiles]) -> None:
        """All steps of a stage: in one launch, or pass by pass."""
        if stage not in layout:
            return
        tile, timed = layout[stage], stage in TIMED
        memory, T = dict(saved.memory), saved.T if timed else 1
        if not timed:
            memory["at_starts"] = memory["at_all"]
        seats = tile.groups * tile.rows
        memory["at_parts"] = saved.x.new_empty(len(self.values.folds) * tile.parts * seats, dtype=self._real(saved))
        memory["at_counter"] = saved.x.new_zeros(tile.groups, dtype=torch.int32)
        if tile.persistent:
            self._launch(stage, saved, tile, memory, (0, T), -1)
            return
        for step in range(T):
            for number, loop in enumerate(self.program.stages[stage]):
                if not timed and loop.products:
                    memory["at_products"] = self._products(stage, number, saved)
                self._launch(stage, saved, tile, memory, (step, step + 1), number)

    def _launch(
        self, stage: str, saved: Saved, tile: Tiles, memory: dict[str, Tensor], steps: tuple[int, int], number: int
    ) -> None:
        pointers = {name: memory[name] for name in self.code.pointers[stage]}
        columns = {f"N_{place}": own for place, own in enumerate(tile.columns)}
        numbers = {"B": saved.B, "T": saved.T if stage in TIMED else 1, "ROWS": tile.groups * tile.rows}
        options: dict[str, Any] = {"num_warps": 4}
        if tile.persistent and tile.parts > 1:
            options["launch_cooperative_grid"] = True
        kernel = getattr(self.module, stage)
        kernel[(tile.programs,)](
            **pointers,
            **numbers,
            first=steps[0],
            last=steps[1],
            **columns,
            PARTS=tile.parts,
            SPREAD=tile.spread,
            BB=tile.rows,
            BK=tile.depth,
            PASS=number,
            SYNC=tile.persistent and tile.parts > 1,
            HELD=tile.held,
            KEEP=saved.keep,
            APART=saved.apart and stage in TIMED,
            REAL=TYPES[self._real(saved)],
            TYPE=TYPES[self._real(saved) if interpreted() else saved.x.dtype],  # its interpreter has no bfloat16
            PRECISION="tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee",
            **options,
        )

    def _real(self, saved: Saved) -> torch.dtype:
        return COMPUTED.get(saved.x.dtype, torch.float32)

    def _products(self, stage: str, number: int, saved: Saved) -> Tensor:
        """The products of a pass over all rows: (rows, slots * width), by PyTorch."""
        loop = self.program.stages[stage][number]
        packed, start, found = saved.memory[f"at_p_{stage}_{number}"], 0, []
        for product in loop.products:
            columns, terms = len(product.slots) * loop.width, []
            for arg in product.inputs:
                matrix = packed[start : start + arg.width * columns].view(arg.width, columns)
                start += arg.width * columns
                terms.append((self._columns(stage, arg, saved), matrix))
            total = terms[0][0] @ terms[0][1]
            for rows, matrix in terms[1:]:
                total = torch.addmm(total, rows, matrix)
            found.append(total)
        return found[0] if len(found) == 1 else torch.cat(found, 1)

    def _columns(self, stage: str, arg: Read, saved: Saved) -> Tensor:
        """What a term of a product reads, of all rows."""
        atom = self.program.graph.atoms[arg.atom]
        assert atom.op not in ("weight", "const")  # a product of weights alone is on the tape
        place = self.values.place(stage, arg.atom)
        start, matrix = place.column + arg.start, self._matrix(place, saved)
        if arg.step == 1:
            return matrix[:, start : start + arg.width].to(saved.x.dtype)
        return matrix[:, [start + arg.step * column for column in range(arg.width)]].to(saved.x.dtype)

    def _matrix(self, place: Place, saved: Saved) -> Tensor:
        """The buffer of a place, (rows, columns): of a state, what every step began with or left."""
        name = f"at_{place.buffer}_{place.when}" if place.buffer.startswith("state") else f"at_{place.buffer}"
        matrix = saved.memory[name]
        return matrix.view(-1, matrix.shape[-1])[: saved.rows]

    # Backward.

    def backward(
        self, saved: Saved, dy: Tensor | None, dlast: list[Tensor | None], leaves: Leaves, wanted: list[str]
    ) -> tuple[Tensor | None, list[Tensor], dict[str, Tensor]]:
        """Gradients of x, of the first states and of the wanted parameters; uses up what was saved."""
        with _alone_on(saved.x.device):
            return self._backward(saved, dy, dlast, leaves, wanted)

    def _backward(
        self, saved: Saved, dy: Tensor | None, dlast: list[Tensor | None], leaves: Leaves, wanted: list[str]
    ) -> tuple[Tensor | None, list[Tensor], dict[str, Tensor]]:
        program, x, memory = self.program, saved.x, saved.memory
        real, rows, B = self._real(saved), saved.rows, saved.B
        shape = (rows, program.output_size)
        memory["at_dy"] = x.new_zeros(shape) if dy is None else dy.contiguous().view(shape)
        for k, (width, came) in enumerate(zip(program.widths, dlast, strict=True)):
            memory[f"at_dlast{k}"] = x.new_zeros(B, width) if came is None else came.contiguous()
            memory[f"at_dstate{k}"] = x.new_zeros(2, B, width, dtype=real)
        memory["at_dx"] = torch.zeros_like(x)
        memory[f"at_{SUMMED}"] = x.new_empty(rows, self.values.widths[SUMMED], dtype=real)
        layout = self._tiles(saved)
        for stage in ("backward", "after"):
            self._stage(stage, saved, layout)
        first = [memory[f"at_dstate{k}"][1].to(x.dtype) for k in range(len(program.widths))]
        found = self.gradients.collect(self._blocks(saved), self._sums(saved), rows, leaves, wanted)
        return memory["at_dx"] if program.needs_x else None, first, found

    def _blocks(self, saved: Saved) -> list[Tensor]:
        """The products after the loops, each (segments, rows, columns)."""
        found = []
        for block, width in zip(self.program.blocks, self.gradients.segments, strict=True):
            left = self._matrix(block.left, saved)[:, block.left.column : block.left.column + block.rows]
            right = self._matrix(block.right, saved)[:, block.right.column : block.right.column + block.columns]
            made = left.to(saved.x.dtype).T @ right.to(saved.x.dtype)
            found.append(made.view(block.rows, -1, width).transpose(0, 1))
        return found

    def _sums(self, saved: Saved) -> Tensor:
        """Every column that is summed over all rows."""
        real = self._real(saved)
        names = {place.buffer for place in self.values.summed.values()}
        totals = {name: saved.memory[f"at_{name}"].sum(0, dtype=real) for name in names}
        atoms = self.program.graph.atoms
        parts = [
            totals[place.buffer][place.column : place.column + atoms[atom].width]
            for atom, place in sorted(self.values.summed.items(), key=lambda one: self.program.sums[one[0]])
        ]
        found = torch.cat(parts) if parts else saved.x.new_zeros(0, dtype=real)
        return found.to(saved.x.dtype)


@contextmanager
def _alone_on(device: torch.device) -> Iterator[None]:
    """On a device, in the types that we choose: autocast would put others under our products."""
    with torch.autocast(device.type, enabled=False), torch.cuda.device(device if device.type == "cuda" else -1):
        yield


@lru_cache(maxsize=64)
def _even(T: int, B: int, device: torch.device) -> Tensor:
    """Where every step's rows start, all B, and twice where the last ones end."""
    starts = torch.arange(T + 2) * B
    return starts.clamp(max=T * B).to(device)


def _ends(ragged: Ragged, B: int) -> Tensor:
    """The row of every sequence's last step."""
    lengths = (ragged.starts.diff()[:, None] > torch.arange(B, device="cpu")).sum(0)
    return ragged.starts[lengths - 1] + torch.arange(B, device="cpu")


def _own(y: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same numbers as an output of its own, for autograd, and not a view of what they are part of."""
    found = y.new_empty(0)
    found.set_(y.untyped_storage(), y.storage_offset(), shape, y.new_empty(shape, device="meta").stride())
    return found
