"""Trace: runs a step on a few example rows and writes down, below PyTorch's autograd, what happens to columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, decomposition_table
from torch.utils._pytree import tree_flatten, tree_map_only

from cellwright.step.arithmetic import arithmetic, index_put
from cellwright.step.aten import BILINEAR, CREATIONS, LINEAR, MOVES, RULES, SUMS
from cellwright.step.composed import COMPOSED
from cellwright.step.moves import move
from cellwright.step.notes import Notes
from cellwright.step.products import add_product, product
from cellwright.step.refused import Refused
from cellwright.step.shadow import ROW_BITS, Mixed
from cellwright.step.sums import cumulated, total, variance
from cellwright.step.tape import Entry, Value

Handler = Callable[[Notes, str, Any, Any, Tensor], None]
HANDLERS: dict[str, Handler] = {  # what writes down an operation on rows: (notes, its name, args, kwargs, result)
    **dict.fromkeys(RULES, arithmetic),
    **dict.fromkeys(MOVES, move),
    **dict.fromkeys(SUMS, total),
    "index_put": index_put,
    "var": variance,
    "cumsum": cumulated,
    "mm": product,
    "bmm": product,
    "addmm": add_product,
    "baddbmm": add_product,
}


class Trace(Notes):  # type: ignore[no-untyped-call]
    """Notes that are filled by whatever runs under it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        base = name[:-1] if name.endswith("_") and not name.endswith("__") else name
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        rows = [tensor for tensor in tensors if self.has_rows(tensor)]
        if torch.Tag.nondeterministic_seeded in func.tags:
            reason = f"{name} draws random numbers inside a step: draw them outside and pass them in x"
            raise Refused(reason, self.where())
        if func is torch.ops.aten._local_scalar_dense.default and not (tensors and self.is_constant(tensors[0])):
            raise Refused("a Python decision or number depends on the values of tensors", self.where())
        if base != name and self.is_fixed(args[0]):
            raise Refused(f"{name} changes a weight, a buffer or another tensor of the module", self.where())
        handled = base in HANDLERS or base in CREATIONS
        if rows and not handled and not _is_view(func) and (smaller := _smaller(func)) is not None:
            with self:
                return smaller(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        self.keep(result)
        self._follow(func, base, name != base, args, kwargs or {}, result, rows)
        return result

    def _follow(
        self, func: Any, base: str, writes: bool, args: Any, kwargs: Any, result: Any, rows: list[Tensor]
    ) -> None:
        outputs = [value for value in tree_flatten(result)[0] if isinstance(value, Tensor)]
        for output in outputs:
            if output.is_floating_point() and output.dtype != self.dtype and output.dim():
                raise Refused(f"{base} gives {output.dtype} among {self.dtype}", self.where())
        creates = base in CREATIONS
        many = any(_has_dim(output, self.shadows.batch) for output in outputs)
        lost = bool(rows) and not all(self.has_rows(output) for output in outputs)
        if creates and (many or rows):
            self._create(base, result)
        elif lost and base in MOVES:  # a copy that could have been a view
            self._compute(base, args, kwargs, result)
        elif (not rows and not (many and not _is_view(func))) or creates:
            self._record(func, writes, args, kwargs, result)
        elif _is_view(func):
            if not all(self.has_rows(output) for output in outputs):  # a batch-free tensor stretched over rows
                self._record(func, writes, args, kwargs, result)
        else:
            self._compute(base, args, kwargs, result)

    def _create(self, base: str, result: Tensor) -> None:
        known = result.numel() and "empty" not in base  # what lies in memory that nobody wrote is no number
        first = result.flatten()[0].item() if known else 0.0
        constant = self.atoms.constant(float(first) if bool((result == first).all()) else 0.0)
        self.shadows.put(result, torch.full(result.shape, constant << ROW_BITS))

    def _record(self, func: Any, writes: bool, args: Any, kwargs: Any, result: Any) -> None:
        base = func.overloadpacket.__name__
        if writes and args[0].numel() * args[0].element_size() == args[0].untyped_storage().nbytes():
            func = getattr(getattr(torch.ops.aten, base[:-1]), func._overloadname)  # all of it: as good as a new one
        elif writes:
            raise Refused(f"{base} writes into a tensor that has no rows", self.where())
        used: list[int] = []

        def number(tensor: Tensor) -> Value:
            used.append(self.value(tensor))
            return Value(used[-1])

        new_args, new_kwargs = tree_map_only(Tensor, number, (tuple(args), kwargs))
        summed = [self.tape.entries[one].summed for one in used]
        if any(summed) and not _is_view(func):
            base = func.overloadpacket.__name__
            if not _is_linear(base, args, summed):
                raise Refused(f"{base} is applied to a sum over the batch", self.where())
        entry = Entry(func, new_args, new_kwargs, summed=any(summed))
        outputs = [result] if isinstance(result, Tensor) else list(result)
        for part, output in enumerate(outputs):
            place = None if isinstance(result, Tensor) else part
            self.note(output, self.tape.add(entry._replace(part=place)))

    def _compute(self, base: str, args: Any, kwargs: Any, result: Any) -> None:
        if base not in HANDLERS:
            raise Refused(f"{base} is not among the operations that loops know", self.where())
        try:
            HANDLERS[base](self, base, args, kwargs, result)
        except Mixed:
            raise Refused(f"{base} lets one row of the batch depend on another", self.where()) from None


def _is_linear(base: str, args: Any, summed: list[bool]) -> bool:
    """Whether an operation does to a sum what it would do to all that is summed, one by one."""
    if base == "masked_fill":
        return not isinstance(args[2], Tensor) and bool(args[2] == 0)
    alone = sum(summed) == 1 and summed[0]
    if base in BILINEAR:
        return alone or (base != "div" and sum(summed) == 1)
    return base in LINEAR or ("_backward" in base and alone)  # these are linear in the gradient, their first


def _has_dim(tensor: Tensor, batch: int) -> bool:
    return any(size == batch and stride != 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _is_view(func: Any) -> bool:
    return bool(func.is_view) if hasattr(func, "is_view") else False


def _smaller(func: Any) -> Callable[..., Any] | None:
    """An operation in smaller ones, if there is such a function."""
    if func in COMPOSED:
        return COMPOSED[func]
    if not _TABLE:
        _TABLE.update({**decomposition_table, **core_aten_decompositions()})
    return _TABLE.get(func)


_TABLE: dict[Any, Callable[..., Any]] = {}
