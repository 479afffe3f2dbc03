"""Operator: a compiled cell as two operators of PyTorch, for torch.compile and torch.export to put into their graphs.

They are functions of their arguments alone. What a forward run kept for the backward one waits outside the graph,
under a ticket that the graph carries in its place; where it is gone, used up or was never kept, the backward
operator runs forward again.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cellwright.cells import Cell
from cellwright.errors import BackendError
from cellwright.kernels.c.run import Fused as Compiled
from cellwright.kernels.function import Fused
from cellwright.kernels.fuse import Entry
from cellwright.kernels.gradients import Leaves
from cellwright.program import plan
from cellwright.step import Ragged, written

FORMAT = 1  # of the text that stands for a cell in an exported program: raise it when its meaning changes
FORWARD = (
    "forward(str program, Tensor x, Tensor[] states, Tensor[] weights, Tensor[] ragged, bool keep) "
    "-> (Tensor, Tensor[], Tensor)"
)
BACKWARD = (
    "backward(str program, Tensor x, Tensor[] states, Tensor[] weights, Tensor[] ragged, Tensor[] held, Tensor? dy, "
    "Tensor?[] dlast, bool[] wanted) -> Tensor[]"
)
ALIGNED = 16  # bytes: what torch.compile expects of every tensor that an operator returns


class Named:
    """A compiled cell with the order of its weights, as the operators look it up."""

    def __init__(self, fused: Fused, names: list[str]) -> None:
        self.fused, self.names = fused, names

    def forward(
        self, x: Tensor, states: list[Tensor], weights: list[Tensor], ragged: list[Tensor], keep: bool
    ) -> tuple[Tensor, tuple[Tensor, ...], Any]:
        """As that of `fused`."""
        rows = Ragged(*ragged) if ragged else None
        return self.fused.forward(x, tuple(states), Leaves(zip(self.names, weights, strict=True)), keep, rows)


class Ticket(np.ndarray[Any, np.dtype[np.int64]]):
    """The memory of a tensor that stands for what a forward run kept; both end together."""

    named: Named  # which backward needs too, even if its layer is gone by then
    saved: Any = None


_numbers = itertools.count(1)
_named: weakref.WeakValueDictionary[str, Named] = weakref.WeakValueDictionary()
_of_cells: weakref.WeakKeyDictionary[Cell, dict[tuple[Fused, bool], tuple[str, Named]]] = weakref.WeakKeyDictionary()
_tickets: weakref.WeakValueDictionary[int, Ticket] = weakref.WeakValueDictionary()


def name_of(entry: Entry, cell: Cell, whole: bool) -> str:
    """The name by which the operators find a compiled cell.

    Args:
        entry: the compiled cell.
        cell: the cell, for whose life the name holds.
        whole: write all that there is to compile into the name, so that it holds for good and anywhere.
    """
    assert entry.fused is not None
    known = _of_cells.setdefault(cell, {})
    if (entry.fused, whole) not in known:
        named = Named(entry.fused, list(leaves_of(cell)))
        name = _written_name(entry, cell, named) if whole else _short_name(entry.fused)
        known[entry.fused, whole] = (name, named)
        _named[name] = named
    return known[entry.fused, whole][0]


def leaves_of(cell: Cell) -> dict[str, Tensor]:
    """All weights by name, in words that torch.compile understands."""
    return {**dict(cell.named_parameters()), **dict(cell.named_buffers())}


def _short_name(fused: Fused) -> str:
    """Another for another program, as graphs are kept on disk, and for another cell, as each has its own weights."""
    digest = hashlib.sha256(fused.code.text.encode()).hexdigest()[:16]
    return f"{fused.code.text.splitlines()[0].lstrip('/# ')} {digest} {next(_numbers)}"


def _written_name(entry: Entry, cell: Cell, named: Named) -> str:
    assert entry.step is not None
    about = {"cellwright": FORMAT, "title": _plain(cell.in_one_line()), "number": next(_numbers)}
    return json.dumps({**about, "states": cell.state, "names": named.names, "step": written.write(entry.step)})


def _find(name: str) -> Named:
    found = _named.get(name)
    if found is not None:
        return found
    if name.startswith("{"):
        return _read(name)
    raise BackendError(
        "a compiled function runs in its process, as long as the layers exist that were compiled",
        f"a call of {name!r}, which is gone",
        "keep the layer, or compile it again; to take it elsewhere, use torch.export",
    )


@functools.lru_cache(maxsize=1024)
def _read(text: str) -> Named:
    try:
        about = json.loads(text)
        if about["cellwright"] != FORMAT:
            raise ValueError(f"a cell of format {about['cellwright']}")
        if not all(re.fullmatch(r"\w+", state) for state in about["states"]):
            raise ValueError("states without a name")
        program = plan(written.read(about["step"]), tuple(about["states"]), True)
        return Named(Compiled(program, _plain(about["title"])), [str(name) for name in about["names"]])
    except BackendError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise BackendError(
            f"an exported program holds cells that this version can read, of format {FORMAT}",
            f"{error}",
            "export the layer again with this version of cellwright",
        ) from error


def _plain(title: str) -> str:
    return re.sub(r"[^\w ,.=()'-]", " ", title)  # it becomes a comment in C


def run_operator(
    name: str, leaves: dict[str, Tensor], x: Tensor, state: tuple[Tensor, ...], ragged: Ragged | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """y (T, B, O) and the final states, each (1, B, H), as one operator in the graph that is being traced."""
    weights = list(leaves.values())
    rows = [] if ragged is None else [one for one in ragged if one is not None]
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *state, *weights))
    # An exported program runs forward mostly: its backward makes again what it needs.
    keep = keep and not torch.compiler.is_exporting()
    y, last, _ = torch.ops.cellwright.forward.default(name, x.contiguous(), list(state), weights, rows, keep)
    return y, tuple(one.unsqueeze(0) for one in last)


def _forward(
    name: str, x: Tensor, states: list[Tensor], weights: list[Tensor], ragged: list[Tensor], keep: bool
) -> tuple[Tensor, list[Tensor], Tensor]:
    named = _find(name)
    y, last, saved = named.forward(x, states, weights, ragged, keep)
    y = y if y.data_ptr() % ALIGNED == 0 else y.clone()
    return y, [one.squeeze(0) for one in last], _issue(named, saved if keep else None)


def _issue(named: Named, saved: Any) -> Tensor:
    ticket = np.zeros(1, np.int64).view(Ticket)
    ticket.named = named
    if saved is not None:
        ticket[0] = next(_numbers)
        ticket.saved = saved
        _tickets[int(ticket[0])] = ticket
    return torch.from_numpy(ticket)


def _forward_fake(
    name: str, x: Tensor, states: list[Tensor], weights: list[Tensor], ragged: list[Tensor], keep: bool
) -> tuple[Tensor, list[Tensor], Tensor]:
    y = x.new_empty(*x.shape[:-1], _find(name).fused.program.output_size)
    return y, [state.new_empty(state.shape) for state in states], torch.empty(1, dtype=torch.int64)


def _backward(
    name: str,
    x: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    ragged: list[Tensor],
    held: list[Tensor],
    dy: Tensor | None,
    dlast: list[Tensor | None],
    wanted: list[bool],
) -> list[Tensor]:
    named = _find(name)
    ticket = _tickets.pop(int(held[0]), None)
    saved = None if ticket is None else ticket.saved
    if ticket is None or saved is None or named.fused.moved(saved):
        saved = named.forward(x, states, weights, ragged, True)[2]
    else:
        ticket.saved = None  # backward uses it up
    first, needs = wanted[1 : 1 + len(states)], wanted[1 + len(states) :]
    names = [one for one, need in zip(named.names, needs, strict=True) if need]
    leaves = Leaves(zip(named.names, weights, strict=True))
    dx, dstates, found = named.fused.backward(saved, dy, dlast, leaves, first, names)
    grads = [dx, *dstates, *(found.get(one) for one in named.names)]
    like = [x, *states, *weights]
    return _apart([grad for grad, need in zip(grads, wanted, strict=True) if need and grad is not None], like)


def _apart(tensors: list[Tensor], others: list[Tensor]) -> list[Tensor]:
    """Tensors as an operator returns them: contiguous, from the start of their memory on, which no other one has."""
    taken = {tensor.untyped_storage().data_ptr() for tensor in others}
    found = []
    for tensor in tensors:
        place = tensor.untyped_storage().data_ptr()
        starts = tensor.storage_offset() == 0 and tensor.data_ptr() % ALIGNED == 0
        fine = tensor.is_contiguous() and starts and place not in taken
        found.append(tensor if fine else tensor.clone(memory_format=torch.contiguous_format))
        taken.add(place)
    return found


def _backward_fake(
    name: str,
    x: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    ragged: list[Tensor],
    held: list[Tensor],
    dy: Tensor | None,
    dlast: list[Tensor | None],
    wanted: list[bool],
) -> list[Tensor]:
    like = [x, *states, *weights]
    kind = torch.contiguous_format
    return [torch.empty_like(one, memory_format=kind) for one, need in zip(like, wanted, strict=True) if need]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor], Tensor]) -> None:
    name, x, states, weights, ragged, _ = inputs
    y, _, ticket = output
    # y may be where backward reads the states: in the graph, it must not be overwritten before.
    held = [ticket] if _find(name).fused.program.has_y else [ticket, y]
    ctx.name, ctx.counts = name, (len(states), len(weights), len(ragged))
    ctx.save_for_backward(x, *states, *weights, *ragged, *held)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dy: Tensor | None, dlast: list[Tensor | None], _: Tensor | None) -> tuple[Any, ...]:
    count, total, end = ctx.counts[0], sum(ctx.counts[:2]), sum(ctx.counts)
    x, *rest = ctx.saved_tensors
    states, weights, ragged, held = rest[:count], rest[count:total], rest[total:end], rest[end:]
    named = _find(ctx.name)
    _, need_x, need_states, need_weights, _, _ = ctx.needs_input_grad
    program = named.fused.program
    if need_x and not program.needs_x:
        raise BackendError(
            "the gradient of x exists where x asked for one when the layer was compiled",
            f"an x of {ctx.name!r} that did not",
            "compile it again with x.requires_grad_()",
        )
    known = [program.needs_x, *[True] * count, *(name in program.gradients for name in named.names)]
    needs = [need_x, *need_states, *need_weights]
    wanted = [need and has for need, has in zip(needs, known, strict=True)]
    found = torch.ops.cellwright.backward.default(ctx.name, x, states, weights, ragged, held, dy, dlast, wanted)
    grads = iter(found)
    dx, *others = (next(grads) if need else None for need in wanted)
    return None, dx, others[:count], others[count:], [None] * len(ragged), None


def _register() -> Any:
    library: Any = torch.library.Library("cellwright", "DEF")  # type: ignore[no-untyped-call]
    library.define(FORWARD)  # torch.library.custom_op does the same in ten times the time
    library.define(BACKWARD)
    for device in ("CPU", "CUDA"):
        library.impl("forward", _forward, device)
        library.impl("backward", _backward, device)
    torch.library.register_fake("cellwright::forward", _forward_fake, lib=library)
    torch.library.register_fake("cellwright::backward", _backward_fake, lib=library)
    torch.library.register_autograd("cellwright::forward", _differentiate, setup_context=_setup, lib=library)
    return library


_library = _register()
