"""Function: a compiled cell, of any backend, as one differentiable operation of PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cellwright.cells import Cell
from cellwright.kernels.gradients import Leaves
from cellwright.program import Program
from cellwright.step import Ragged, batch_size, unroll

First = tuple[Tensor | None, ...]
"""The states before the first step, each (B, H); None: zeros."""


class Code(Protocol):
    """Generated source."""

    @property
    def text(self) -> str: ...


class Fused(Protocol):
    """A program compiled by some backend, which knows its own kind of what a forward run saves."""

    program: Program

    @property
    def code(self) -> Code: ...

    def forward(
        self, x: Tensor, states: First, leaves: Leaves, keep: bool, ragged: Ragged | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...], Any]: ...

    def moved(self, saved: Any) -> bool: ...

    def backward(
        self,
        saved: Any,
        dy: Tensor | None,
        dlast: Sequence[Tensor | None],
        leaves: Leaves,
        first: Sequence[bool],
        wanted: list[str],
    ) -> tuple[Tensor | None, list[Tensor | None], dict[str, Tensor]]: ...


class Unrolled(nn.Module):
    """The reference loop as a module, so that its weights can be put in from outside."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, state: tuple[Tensor, ...], ragged: Ragged | None = None) -> tuple[Tensor, ...]:
        y, last = unroll(self.cell, x, state, ragged)
        return y, *last


class Run(torch.autograd.Function):
    """y and the final states of a compiled cell."""

    @staticmethod
    def forward(
        ctx: Any, fused: Fused, cell: Cell, names: list[str], ragged: Ragged | None, x: Tensor, *tensors: Any
    ) -> tuple[Tensor, ...]:
        states, weights = tensors[: len(fused.program.widths)], tensors[len(fused.program.widths) :]
        leaves = Leaves(zip(names, weights, strict=True))
        keep = not _hooked()
        y, last, saved = fused.forward(x, states, leaves, keep, ragged)
        ctx.fused, ctx.cell, ctx.names, ctx.ragged, ctx.saved = fused, cell, names, ragged, saved if keep else None
        ctx.save_for_backward(x, *tensors, y)
        ctx.set_materialize_grads(False)
        return y, *last

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *dlast: Tensor | None) -> tuple[Any, ...]:
        x, *tensors, _ = ctx.saved_tensors
        if torch.is_grad_enabled() or _batched(dy, *dlast):
            return (None, None, None, None, *_differentiable(ctx, x, tensors, dy, dlast))
        fused: Fused = ctx.fused
        count = len(fused.program.widths)
        states, weights = tensors[:count], tensors[count:]
        leaves = Leaves(zip(ctx.names, weights, strict=True))
        saved = ctx.saved
        if saved is None or fused.moved(saved):  # not kept, used up by a backward before, or no longer there
            saved = fused.forward(x, tuple(states), leaves, True, ctx.ragged)[2]
        ctx.saved = None
        _, _, _, _, need_x, *needs = ctx.needs_input_grad
        first, wanted = needs[:count], list(compress(ctx.names, needs[count:]))
        dx, dstates, found = fused.backward(saved, dy, dlast, leaves, first, wanted)
        return (None, None, None, None, dx if need_x else None, *dstates, *map(found.get, ctx.names))


def run_fused(
    fused: Fused,
    leaves: dict[str, Tensor],
    cell: Cell,
    x: Tensor,
    state: First,
    ragged: Ragged | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """y (T, B, O) and the final states, each (1, B, H), of a cell with these weights; differentiable where one asks."""
    names, weights = list(leaves), list(leaves.values())
    if torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in (x, *state, *weights)):
        y, *last = Run.apply(fused, cell, names, ragged, x, *state, *weights)  # type: ignore[no-untyped-call]
        return y, tuple(last)
    y, last, _ = fused.forward(x, state, Leaves(leaves), False, ragged)
    return y, last


def run_eager(
    cell: Cell, x: Tensor, state: tuple[Tensor, ...], ragged: Ragged | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The same by the cell's equations, step by step."""
    y, last = unroll(cell, x, state, ragged)
    return y, tuple(one.unsqueeze(0) for one in last)


def filled(
    states: Sequence[Tensor | None], widths: Sequence[int], x: Tensor, ragged: Ragged | None
) -> tuple[Tensor, ...]:
    """The states before the first step, zeros where None were given."""
    B = batch_size(x, ragged)
    return tuple(x.new_zeros(B, width) if one is None else one for one, width in zip(states, widths, strict=True))


def _hooked() -> bool:
    """Whether hooks take what graphs save (checkpoints, `save_on_cpu`): they are to have all of it."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def _batched(*grads: Tensor | None) -> bool:
    """Whether these are many gradients at once, as with `is_grads_batched`."""
    kinds = torch._C._functorch
    found = (one for one in grads if one is not None)
    return any(kinds.is_batchedtensor(one) or kinds.is_legacy_batchedtensor(one) for one in found)


def _differentiable(
    ctx: Any, x: Tensor, tensors: list[Any], dy: Tensor | None, dlast: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients by the reference loop, so that they can be differentiated again, or many be taken at once."""
    graph = torch.is_grad_enabled()
    count = len(ctx.fused.program.widths)
    tensors[:count] = filled(tensors[:count], ctx.fused.program.widths, x, ctx.ragged)
    given = {f"cell.{name}": tensor for name, tensor in zip(ctx.names, tensors[count:], strict=True)}
    with torch.enable_grad():
        outputs = torch.func.functional_call(Unrolled(ctx.cell), given, (x, tuple(tensors[:count]), ctx.ragged))
    came = [g if g is None else g.reshape(o.shape) for o, g in zip(outputs, (dy, *dlast), strict=True)]
    pairs = [(o, g) for o, g in zip(outputs, came, strict=True) if g is not None and o.requires_grad]
    needs = ctx.needs_input_grad[4:]
    inputs = [tensor for tensor, need in zip((x, *tensors), needs, strict=True) if need]
    weights = [g for _, g in pairs]
    grads = iter(torch.autograd.grad([o for o, _ in pairs], inputs, weights, create_graph=graph, allow_unused=True))
    return tuple(next(grads) if need else None for need in needs)
