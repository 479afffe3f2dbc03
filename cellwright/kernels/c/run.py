"""Run: a compiled program on tensors: the argument of its C function, and the calls."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cellwright.kernels.c.buffers import FAR, LINE, Layout, Saved, Sizes, in_thirds, kept_apart, shares
from cellwright.kernels.c.build import load
from cellwright.kernels.c.core import HEADERS, Core, core
from cellwright.kernels.c.openmp import launch, thread_functions
from cellwright.kernels.c.pool import Pool, pool, view
from cellwright.kernels.c.render import Source, render
from cellwright.kernels.c.weights import PACK, Weights
from cellwright.kernels.function import First
from cellwright.kernels.gradients import Leaves
from cellwright.program import Program
from cellwright.program.places import Place
from cellwright.step import Ragged, batch_size

INFER, TRAIN, BACKWARD = range(3)
# The fields of a Call in sequence.h, which buffers and weights follow, and those of a State.
CALL = (
    *("T", "B", "job", "columns", "few", "far", "turn", "rows", "packs", "pieces", "blocks", "states", "sums"),
    *("copies", "parts", "window", "thirds", "parted_size", "once", "start", "resets", "thread", "threads", "barrier"),
    *("pack", "piece", "found", "known", "plain", "made", "block", "state", "packed", "parted", "contract"),
    *("reductions", "sum", "bias"),
)
JOB, COLUMNS, FEW, TURN, ONCE, PACKS, PACKING, BLOCKS, BARRIER, BLOCK, STATES, PACKED, BIAS = map(
    CALL.index,
    ("job", "columns", "few", "turn", "once", "packs", "pack", "blocks", "barrier", "block", "state", "packed", "bias"),
)
STATE = ("width", "kept", "rows", "old", "first", "last", "carry", "dlast", "dfirst")
OLD, DLAST, DFIRST = map(STATE.index, ("old", "dlast", "dfirst"))
MOST_CACHED = 64  # sizes of runs that are known


class Fused:
    """A program compiled for this machine, at its first run."""

    def __init__(self, program: Program, title: str) -> None:
        self.program = program = kept_apart(program)
        self.code: Source = render(program, title)
        self.weights = Weights(program, self.code)
        self.gradients = self.code.gradients
        self._own, self._pool = Pool(program.dtype), pool(program.dtype)  # its own keeps its place from run to run
        self._layouts: dict[Sizes, Layout] = {}
        self._even: dict[tuple[int, int, int, bool], tuple[Layout, Steps]] = {}
        self._names = tuple(name for name in program.buffers if name != "sums")
        self._at = {name: len(CALL) + place for place, name in enumerate(self._names)}

    @cached_property
    def library(self) -> ctypes.CDLL:
        """The compiled source: only what runs is compiled, not what is but explained."""
        library = load(self.code.text, HEADERS)
        library.connect(ctypes.byref(self.core))
        return library

    @cached_property
    def core(self) -> Core:
        """The functions that all cells have in common."""
        with ThreadPoolExecutor(1) as beside:  # two compilers at once; what fails there fails again
            beside.submit(load, self.code.text, HEADERS)
            return core(self.program.dtype)

    def at(self, name: str) -> int:
        """Which field of the argument is the address of this buffer."""
        return self._at[name]

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
        program, B = self.program, batch_size(x, ragged)
        x, states = readable(x), tuple([None if one is None else readable(one) for one in states])
        size = (x.shape[0], B, torch.get_num_threads(), keep)
        layout, steps = self.even(*size) if ragged is None else self._uneven(*size, ragged)
        saved = self.saved(layout, leaves, steps)
        outputs = [x.new_empty(1, B, width) for width in program.widths]
        y, ahead = self._empty_y(x, B), 0 if program.has_y else B * program.output_size * x.itemsize
        argument, at = saved.argument, self._at
        argument[JOB], argument[at["x"]] = TRAIN if keep else INFER, x.data_ptr()
        argument[at["y" if program.has_y else "state0"]] = y.data_ptr() - ahead
        for place, (first, last) in enumerate(zip(states, outputs, strict=True)):
            known = (program.widths[place], saved.layout.depths[place] > 2 * B, argument[at[f"state{place}"]])
            carry, old = argument[at[f"dstate{place}"]], saved.old[place]
            saved.states.extend((*known, old, address_of(first), last.data_ptr(), carry, 0, 0))
        saved.held = (x.detach(), states, y.detach(), steps)  # not y itself, whose graph holds what is saved
        self.launch(saved)
        return y, tuple(outputs), saved

    def moved(self, saved: Saved) -> bool:
        """Whether x or y lies elsewhere by now (`x.data = ...`, `share_memory_`): what was saved is of no use then."""
        (x, _, y, _), argument, program = saved.held, saved.argument, self.program
        ahead = 0 if program.has_y else saved.layout.sizes.B * program.output_size * x.itemsize
        places = (argument[self._at["x"]], argument[self._at["y" if program.has_y else "state0"]])
        return places != (x.data_ptr(), y.data_ptr() - ahead)

    def even(self, T: int, B: int, team: int, keep: bool) -> tuple[Layout, Steps]:
        """Where the memory of a run lies, and where it says which rows are which step's, if all have B."""
        found = self._even.get((T, B, team, keep))
        if found is None:
            drop_oldest(self._even)
            starts = array("q", [t * B for t in range(T + 1)])
            steps = Steps(T, starts.buffer_info()[0], 0, starts)
            found = self._even[T, B, team, keep] = (self._layout(self._sizes(T * B, B, team, keep)), steps)
        return found

    def _uneven(self, rows: int, B: int, team: int, keep: bool, ragged: Ragged) -> tuple[Layout, Steps]:
        """The same of sequences of several lengths."""
        apart, resets = keep or ragged.resets is not None, 0 if ragged.resets is None else ragged.resets.data_ptr()
        steps = Steps(len(ragged.starts) - 1, ragged.starts.data_ptr(), resets, ragged)
        return self._layout(self._sizes(rows, B, team, keep, apart)), steps

    def _sizes(self, rows: int, B: int, team: int, keep: bool, apart: bool = False) -> Sizes:
        """What decides the memory of a run, and how its threads share the work."""
        thirds = bool(self.core.pack_thirds) and in_thirds(B, self.code)
        packing = self.code.thirds if thirds else self.code.packing
        columns, few = shares(B, team, packing.each_step * self.program.dtype.itemsize, thirds)
        return Sizes(rows, B, team, keep, columns, apart, thirds, few)

    def _empty_y(self, x: Tensor, B: int) -> Tensor:
        """Memory for y; where y is the first state, with what that was before the first step ahead of it."""
        width = self.program.output_size
        return self._pool.lend((*x.shape[:-1], width), 0 if self.program.has_y else B * width)

    def saved(self, layout: Layout, leaves: Leaves, steps: Steps) -> Saved:
        """Memory for a run, packed weights, and the argument of its call as far as they decide it."""
        sizes = layout.sizes
        packed, memory = self.weights.take(leaves, sizes), self._own.take(layout.size)
        saved = Saved(self._own, memory, layout, self.weights, packed)
        known = (memory.start, steps.T, steps.start, steps.resets, packed.fields, packed.vectors)
        last = layout.last
        if last[0] != known:
            last = layout.last = (known, *self._argument(saved, steps))
        saved.argument, saved.old = last[1][:], last[2]
        if sizes.keep:
            packing = self.code.thirds if sizes.thirds else self.code.packing
            saved.results = self._pool.array((max(self.gradients.size, packing.size),))  # until then packed weights
        saved.argument[PACKED] = saved.results.piece.start if sizes.keep else packed.memory.data_ptr()
        barrier = saved.barrier.buffer_info()[0]
        saved.argument[BARRIER] = barrier + -barrier % LINE
        return saved

    def _argument(self, saved: Saved, steps: Steps) -> tuple[array[int], array[int]]:
        """The argument of a call, but for what only that call has; and where states lie that are apart."""
        layout, packed, sizes = saved.layout, saved.packed, saved.layout.sizes
        count, sums = len(self.program.widths), self.program.buffers["sums"].width
        names = (*self._names, "parted", "contract", "reductions", "sum", *(f"old{place}" for place in range(count)))
        places = layout.places(saved.memory.start, names)
        argument = (
            *(steps.T, sizes.B, 0, sizes.columns[0], sizes.few[0], self.weights.each_step > FAR, 0),
            *(layout.scratch_rows, len(packed.jobs) // PACK, len(packed.pieces) // 2, 0, count),
            *(sums, self.gradients.copies, sizes.team, sizes.window, sizes.thirds, layout.parted, 1),
            *(steps.start, steps.resets),
            *(*thread_functions(), 0, *packed.fields, 0, 0, 0, *places[-count - 4 : -count], 0),
            *(*places[: -count - 4], *packed.vectors),
        )
        return array("q", argument), places[-count:]

    def _layout(self, sizes: Sizes) -> Layout:
        found = self._layouts.get(sizes)
        if found is None:
            drop_oldest(self._layouts)
            found = self._layouts[sizes] = Layout(self.program, self.code, self.core.contract, sizes)
        return found

    def launch(self, saved: Saved) -> None:
        """Run what a saved run's argument says."""
        saved.argument[STATES] = saved.states.buffer_info()[0]
        launch(self.library.run, saved.argument.buffer_info()[0], saved.layout.sizes.team)

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
        program, sizes = self.program, saved.layout.sizes
        rows, B, *_ = sizes
        like = saved.held[0]
        dy = like.new_zeros(rows, program.output_size) if dy is None else readable(dy)
        came = [None if one is None else readable(one) for one in dlast]
        dfirst = [
            like.new_empty(B, width) if wants else None for width, wants in zip(program.widths, first, strict=True)
        ]
        for place in range(len(dfirst)):
            saved.states[len(STATE) * place + DLAST] = address_of(came[place])
            saved.states[len(STATE) * place + DFIRST] = address_of(dfirst[place])
        dx = self._empty_dx(like) if program.needs_x else None
        argument, at, start = saved.argument, self._at, saved.results.piece.start
        blocks, late = self._blocks(saved, start), self.weights.late(saved.packed, sizes, argument)
        argument[COLUMNS], argument[FEW] = sizes.columns[1], sizes.few[1]
        argument[PACKS], argument[PACKING] = len(late) // PACK, late.buffer_info()[0]
        argument[at["dy"]], argument[at["dx"]] = dy.data_ptr(), address_of(dx)
        argument[JOB], argument[BLOCKS], argument[BLOCK] = BACKWARD, len(program.blocks), blocks.buffer_info()[0]
        argument[BIAS] = start + self.gradients.sums * program.dtype.itemsize
        lent = partial(view, saved.results)
        views = self.gradients.views(lent, wanted)
        self.launch(saved)
        return dx, dfirst, self.gradients.collect(views, lent, rows, leaves, wanted, saved.packed.replayed)

    def _empty_dx(self, x: Tensor) -> Tensor:
        return self._pool.lend(tuple(x.shape)) if "dx" in self.program.graph.outputs else torch.zeros_like(x)

    def _blocks(self, saved: Saved, start: int) -> array[int]:
        """The products after the loops, whose results lie from an address on."""
        layout, blocks, tables = saved.layout, array("q"), (saved.argument, saved.states)
        if layout.blocks is None:
            layout.blocks = list(self._products(layout.sizes))
        for (left, at, more, width), (right, other, rest, across), to, *sizes in layout.blocks:
            lines = (tables[left][at] + more, width, tables[right][other] + rest, across)
            blocks.extend((*lines, start + to, *sizes))
        return blocks

    def _products(self, sizes: Sizes) -> Iterator[tuple[Any, ...]]:
        """Of every block, where its sides lie and its result, and its rows, columns and columns of a segment."""
        given, size = self.gradients, self.program.dtype.itemsize
        for block, first, width in zip(self.program.blocks, given.starts, given.segments, strict=True):
            sides = (self._side(block.left, sizes), self._side(block.right, sizes))
            yield (*sides, first * size, block.rows, block.columns, width)

    def _side(self, place: Place, sizes: Sizes) -> tuple[bool, int, int, int]:
        """Of a matrix: whether its address is among the states' and not in the argument, and where, how far its first
        number lies behind that, and the numbers of a row."""
        width, apart = self.program.buffers[place.buffer].width, place.when == "old" and sizes.apart
        skipped = sizes.B * width if place.when == "new" else 0
        number = int(place.buffer.removeprefix("state")) if apart else 0
        at = len(STATE) * number + OLD if apart else self._at[place.buffer]
        return apart, at, (place.column + skipped) * self.program.dtype.itemsize, width


class Steps(NamedTuple):
    """Of a run: how many steps, and the addresses of what says which rows are theirs, and which begin anew."""

    T: int
    start: int
    resets: int
    held: object  # what they point into


def readable(tensor: Tensor) -> Tensor:
    """The same numbers one after the other, where C reads them: some tensors are to be negated, or have no memory."""
    tensor = tensor.contiguous()
    return tensor.resolve_neg().clone() if tensor.is_neg() or tensor._is_zerotensor() else tensor


def address_of(tensor: Tensor | None) -> int:
    """Where its numbers lie; 0 for none."""
    return 0 if tensor is None else tensor.data_ptr()


def drop_oldest(cache: dict[Any, Any]) -> None:
    """Make room for another entry."""
    while len(cache) >= MOST_CACHED:
        cache.pop(next(iter(list(cache))), None)
