"""Run: a compiled program on tensors: the argument of its C function, and the calls."""

from __future__ import annotations

import ctypes
from array import array

import torch
from torch import Tensor

from cellwright.kernels.c.buffers import Layout, Pool, Saved, Sizes
from cellwright.kernels.c.build import load
from cellwright.kernels.c.core import HEADERS, core
from cellwright.kernels.c.gradients import Gradients
from cellwright.kernels.c.openmp import launch, thread_functions
from cellwright.kernels.c.render import Source, render
from cellwright.kernels.c.weights import Leaves, Weights
from cellwright.program import Program
from cellwright.program.places import Place

INFER, TRAIN, BACKWARD = range(3)
# The fields of a Call in sequence.h, which buffers and weights follow, and those of a State.
CALL = (
    *("T", "B", "job", "columns", "few", "rows", "packs", "pieces", "blocks", "states", "sums", "parts", "hold"),
    *("contract_size", "start", "thread", "threads", "barrier", "pack", "piece", "found", "known", "block", "state"),
    *("contract", "reductions", "sum", "bias"),
)
JOB, BLOCKS, BLOCK, STATES, BIAS = map(CALL.index, ("job", "blocks", "block", "state", "bias"))
STATE = ("width", "kept", "rows", "first", "last", "carry", "dlast", "dfirst")
DLAST, DFIRST = map(STATE.index, ("dlast", "dfirst"))
MOST_LAYOUTS = 64


class Fused:
    """A program compiled for this machine."""

    def __init__(self, program: Program, title: str) -> None:
        self.program = program
        self.code: Source = render(program, title)
        self.library = load(self.code.text, HEADERS)
        self.core = core(program.dtype)
        self.library.connect(ctypes.byref(self.core))
        self.weights = Weights(program, self.code)
        self.gradients = Gradients(program)
        self._pool = Pool(program.dtype)
        self._layouts: dict[Sizes, Layout] = {}
        self._names = tuple(name for name in program.buffers if name != "sums")
        self._at = {name: len(CALL) + place for place, name in enumerate(self._names)}

    # Forward.

    def forward(
        self, x: Tensor, states: tuple[Tensor, ...], leaves: Leaves, keep: bool
    ) -> tuple[Tensor, tuple[Tensor, ...], Saved]:
        """y (T, B, O), the final states, each (B, H), and what backward needs.

        Args:
            x: inputs (T, B, I).
            states: before the first step, each (B, H).
            leaves: the parameters by name.
            keep: whether backward will follow.
        """
        program, (T, B) = self.program, x.shape[:2]
        sizes = Sizes(T, B, torch.get_num_threads(), keep)
        saved = self._saved(sizes, leaves)
        x, states = x.contiguous(), tuple(state.contiguous() for state in states)
        outputs = [x.new_empty(B, width) for width in program.widths]
        y, ahead = self._empty_y(x), 0 if program.has_y else B * program.output_size * x.itemsize
        argument, at = saved.argument, self._at
        argument[JOB], argument[at["x"]] = TRAIN if keep else INFER, x.data_ptr()
        argument[at["y" if program.has_y else "state0"]] = y.data_ptr() - ahead
        for place, (first, last) in enumerate(zip(states, outputs, strict=True)):
            known = (program.widths[place], saved.layout.depths[place] > 2 * B, argument[at[f"state{place}"]])
            carry = argument[at[f"dstate{place}"]]
            saved.states.extend((*known, first.data_ptr(), last.data_ptr(), carry, 0, 0))
        saved.held = (x, states, y)
        self._launch(saved)
        return y, tuple(outputs), saved

    def _empty_y(self, x: Tensor) -> Tensor:
        """Memory for y; where y is the first state, with what that was before the first step ahead of it."""
        (T, B, _), width = x.shape, self.program.output_size
        if self.program.has_y:
            return x.new_empty(T, B, width)
        whole = x.new_empty((T + 1) * B * width)
        y = x.new_empty(0)  # and not a view of `whole`: autograd knows it as an output of its own
        y.set_(whole.untyped_storage(), B * width, (T, B, width), (B * width, width, 1))
        return y

    def _saved(self, sizes: Sizes, leaves: Leaves) -> Saved:
        """Memory for a run, packed weights, and the argument of its call as far as they decide it."""
        layout = self._layout(sizes)
        saved = Saved(self._pool, self._pool.take(layout.size), layout, self.weights, self.weights.take(leaves, sizes))
        places = layout.places(saved.memory, (*self._names, "contract", "reductions", "sum"))
        packed, barrier = saved.packed, saved.barrier.buffer_info()[0]
        widths = self.program.buffers["sums"].width
        saved.argument = array(
            "q",
            (
                *(sizes.T, sizes.B, 0, sizes.columns, sizes.few, layout.scratch_rows),
                *(len(packed.jobs) // 13, len(packed.pieces) // 2, 0, len(self.program.widths), widths, sizes.team),
                *(0 if sizes.one_step else 1, layout.contract, layout.start.buffer_info()[0], *thread_functions()),
                *(barrier + -barrier % 64, *packed.fields(), 0, 0, *places[-3:], 0, *places[:-3], *packed.addresses),
            ),
        )
        return saved

    def _layout(self, sizes: Sizes) -> Layout:
        found = self._layouts.get(sizes)
        if found is None:
            while len(self._layouts) >= MOST_LAYOUTS:
                del self._layouts[next(iter(self._layouts))]
            found = self._layouts[sizes] = Layout(self.program, self.code, self.core.contract_scratch, sizes)
        return found

    def _launch(self, saved: Saved) -> None:
        saved.argument[STATES] = saved.states.buffer_info()[0]
        launch(self.library.run, saved.argument.buffer_info()[0], saved.layout.sizes.team)

    # Backward.

    def backward(
        self, saved: Saved, dy: Tensor | None, dlast: list[Tensor | None], leaves: Leaves, wanted: list[str]
    ) -> tuple[Tensor | None, list[Tensor], dict[str, Tensor]]:
        """Gradients of x, of the first states and of the wanted parameters; uses up what was saved."""
        program, (T, B, *_) = self.program, saved.layout.sizes
        like = saved.held[0]
        dy = like.new_zeros(T, B, program.output_size) if dy is None else dy.contiguous()
        came = [None if one is None else one.contiguous() for one in dlast]
        dfirst = [like.new_empty(B, width) for width in program.widths]
        for place, (last, first) in enumerate(zip(came, dfirst, strict=True)):
            saved.states[len(STATE) * place + DLAST] = 0 if last is None else last.data_ptr()
            saved.states[len(STATE) * place + DFIRST] = first.data_ptr()
        dx = self._empty_dx(like) if program.needs_x else None
        results, sums = self.gradients.results(like), like.new_empty(program.buffers["sums"].width)
        argument, at = saved.argument, self._at
        blocks = self._blocks(argument, results)
        argument[at["dy"]], argument[at["dx"]] = dy.data_ptr(), 0 if dx is None else dx.data_ptr()
        argument[JOB], argument[BLOCKS], argument[BIAS] = BACKWARD, len(results), sums.data_ptr()
        argument[BLOCK] = blocks.buffer_info()[0]
        self._launch(saved)
        return dx, dfirst, self.gradients.collect(results, sums, T * B, leaves, wanted)

    def _empty_dx(self, x: Tensor) -> Tensor:
        return torch.empty_like(x) if "dx" in self.program.graph.outputs else torch.zeros_like(x)

    def _blocks(self, argument: array[int], results: list[Tensor]) -> array[int]:
        """The products after the loops."""
        blocks = array("q")
        for block, result, width in zip(self.program.blocks, results, self.gradients.segments, strict=True):
            left, right = self._address(argument, block.left), self._address(argument, block.right)
            blocks.extend((*left, *right, result.data_ptr(), block.rows, block.columns, width))
        return blocks

    def _address(self, argument: array[int], place: Place) -> tuple[int, int]:
        width = self.program.buffers[place.buffer].width
        skipped = argument[1] * width if place.when == "new" else 0
        return argument[self._at[place.buffer]] + (place.column + skipped) * self.program.dtype.itemsize, width
