"""Run: a program's kernels on tensors: memory, launches, and the products before and after the loops."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache, partial
from types import ModuleType
from typing import Any

import torch
import triton.language as tl
from torch import Tensor
from triton.runtime.errors import OutOfResources

from cellwright.kernels.function import First, filled
from cellwright.kernels.gradients import Gradients, Leaves
from cellwright.kernels.triton.around import Around, Saved
from cellwright.kernels.triton.build import module
from cellwright.kernels.triton.graphs import Graphs, can_capture
from cellwright.kernels.triton.render import render
from cellwright.kernels.triton.target import interpreted
from cellwright.kernels.triton.tiles import Tiles, machine, tiles
from cellwright.kernels.triton.values import SUMMED, Values
from cellwright.kernels.triton.weights import Weights
from cellwright.program.program import Program
from cellwright.program.split import EARLY, STAGES, TIMED
from cellwright.step import Ragged

TYPES = {torch.float32: tl.float32, torch.float64: tl.float64, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


class Launched:
    """A program as kernels for a GPU, compiled at its first run."""

    def __init__(self, program: Program, title: str) -> None:
        self.program = program
        self.values = Values(program)
        self.code = render(self.values, title)
        self.weights = Weights(program, self.code)
        self.gradients = Gradients(program)
        self.around = Around(self.values, self.gradients)
        self._graphs = Graphs()
        self._crowded: set[tuple[str, Tiles]] = set()  # what does not fit on the chip with its weights
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
        self, x: Tensor, states: First, leaves: Leaves, keep: bool, ragged: Ragged | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...], Saved]:
        """y, laid out like x, the final states, each (1, B, H), and what backward needs.

        Args:
            x: inputs (T, B, I); where ragged is given, (N, I).
            states: before the first step, each (B, H); None: zeros.
            leaves: the parameters by name.
            keep: whether backward will follow.
            ragged: which rows are which step's.
        """
        with _alone_on(x.device):
            return self._forward(x.contiguous(), filled(states, self.program.widths, x, ragged), leaves, keep, ragged)

    def moved(self, saved: Saved) -> bool:
        """Whether what was saved is of no use by now: never, for it is held as tensors."""
        return False

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
        last = [saved.memory[f"at_state{k}_new"][ends].to(x.dtype, copy=True) for k in range(len(states))]
        return (
            _own(y.to(x.dtype), (*x.shape[:-1], self.program.output_size)),
            tuple(one.unsqueeze(0) for one in last),
            saved,
        )

    def _allocate(self, saved: Saved, states: tuple[Tensor, ...], ragged: Ragged | None) -> None:
        """The memory of a run. Before a state's rows are those of its beginning; where rows end or begin anew, what
        steps begin with lies apart."""
        x, memory, rows, B = saved.x, saved.memory, saved.rows, saved.B
        real = saved.real
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
        memory["at_parts"] = saved.x.new_empty(len(self.values.folds) * tile.parts * seats, dtype=saved.real)
        counter = saved.x.new_zeros(tile.groups, dtype=torch.int32) if tile.persistent else None
        memory["at_counter"] = memory["at_starts"] if counter is None else counter  # where nobody waits, any memory
        if tile.persistent:
            self._launch(stage, saved, tile, memory, (0, T), -1)
        elif timed and T > 1 and can_capture(saved.x.device):
            key = self._key(stage, saved, tile, memory)
            self._graphs.run(key, partial(self._passes, stage, saved, tile, memory, T))
        else:
            self._passes(stage, saved, tile, memory, T)

    def _passes(self, stage: str, saved: Saved, tile: Tiles, memory: dict[str, Tensor], T: int) -> None:
        """A launch for every pass of every step."""
        for step in range(T):
            for number, loop in enumerate(self.program.stages[stage]):
                if stage not in TIMED and loop.products:
                    memory["at_products"] = self.around.products(stage, number, saved)
                self._launch(stage, saved, tile, memory, (step, step + 1), number)

    def _key(self, stage: str, saved: Saved, tile: Tiles, memory: dict[str, Tensor]) -> Hashable:
        """All that the launches of a loop over time follow from."""
        addresses = tuple(memory[name].data_ptr() for name in self.code.pointers[stage])
        kind = (saved.x.device, saved.x.dtype, torch.backends.cuda.matmul.allow_tf32)
        return stage, tile, saved.T, saved.B, saved.keep, saved.apart, *kind, addresses

    def _launch(
        self, stage: str, saved: Saved, tile: Tiles, memory: dict[str, Tensor], steps: tuple[int, int], number: int
    ) -> None:
        pointers = {name: memory[name] for name in self.code.pointers[stage]}
        columns = {f"N_{place}": own for place, own in enumerate(tile.columns)}
        numbers = {"B": saved.B, "T": saved.T if stage in TIMED else 1, "ROWS": tile.groups * tile.rows}
        options: dict[str, Any] = {"num_warps": 4}
        if tile.persistent and tile.parts > 1:
            options["launch_cooperative_grid"] = True
        options |= {"first": steps[0], "last": steps[1], "PASS": number}
        self._start(
            stage,
            tile,
            **pointers,
            **numbers,
            **columns,
            PARTS=tile.parts,
            SPREAD=tile.spread,
            BB=tile.rows,
            BK=tile.depth,
            SYNC=tile.persistent and tile.parts > 1,
            KEEP=saved.keep,
            APART=saved.apart and stage in TIMED,
            REAL=TYPES[saved.real],
            TYPE=TYPES[saved.real if interpreted() else saved.x.dtype],  # its interpreter has no bfloat16
            PRECISION="tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee",
            **options,
        )

    def _start(self, stage: str, tile: Tiles, **given: Any) -> None:
        """Start a kernel; where the chip has no room for its weights, one that fetches them at every step."""
        kernel = getattr(self.module, stage)
        if tile.held and (stage, tile) not in self._crowded:
            try:
                kernel[(tile.programs,)](**given, HELD=True)
                return
            except OutOfResources:
                self._crowded.add((stage, tile))
        kernel[(tile.programs,)](**given, HELD=False)

    # Backward.

    def backward(
        self,
        saved: Saved,
        dy: Tensor | None,
        dlast: Sequence[Tensor | None],
        leaves: Leaves,
        first: Sequence[bool],
        wanted: list[str],
    ) -> tuple[Tensor | None, list[Tensor | None], dict[str, Tensor]]:
        """Gradients of x, of those first states and of the parameters that are wanted; uses up what was saved."""
        with _alone_on(saved.x.device):
            dx, dfirst, found = self._backward(saved, dy, dlast, leaves, wanted)
        return dx, [one if wants else None for one, wants in zip(dfirst, first, strict=True)], found

    def _backward(
        self, saved: Saved, dy: Tensor | None, dlast: Sequence[Tensor | None], leaves: Leaves, wanted: list[str]
    ) -> tuple[Tensor | None, list[Tensor], dict[str, Tensor]]:
        program, x, memory = self.program, saved.x, saved.memory
        real, rows, B = saved.real, saved.rows, saved.B
        shape = (rows, program.output_size)
        memory["at_dy"] = x.new_zeros(shape) if dy is None else dy.contiguous().view(shape)
        for k, (width, came) in enumerate(zip(program.widths, dlast, strict=True)):
            memory[f"at_dlast{k}"] = x.new_zeros(B, width) if came is None else came.contiguous().view(B, width)
            memory[f"at_dstate{k}"] = x.new_zeros(2, B, width, dtype=real)
        memory["at_dx"] = torch.zeros_like(x)
        memory[f"at_{SUMMED}"] = x.new_empty(rows, self.values.widths[SUMMED], dtype=real)
        layout = self._tiles(saved)
        for stage in ("backward", "after"):
            self._stage(stage, saved, layout)
        first = [memory[f"at_dstate{k}"][1].to(x.dtype) for k in range(len(program.widths))]
        results = self.around.results(saved)

        def view(*place: Any) -> Tensor:
            return results.as_strided(*place).data

        found = self.gradients.collect(self.gradients.views(view, wanted), view, rows, leaves, wanted)
        return memory["at_dx"] if program.needs_x else None, first, found


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
