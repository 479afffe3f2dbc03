"""Capture: Cell -> Step, by tracing one step and, through PyTorch's autograd, its vector-Jacobian product."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.utils._python_dispatch import _disable_current_modes

from cellwright.cells import Cell
from cellwright.step.atoms import COLUMN_BITS, Atom, Refs
from cellwright.step.refused import Refused
from cellwright.step.shadow import ROW_BITS, Mixed
from cellwright.step.tape import Tape
from cellwright.step.trace import Trace
from cellwright.step.watch import watched


@dataclass(frozen=True)
class Step:
    """One step of a cell and its derivative, as atoms: values that every row computes for itself.

    `outputs` are the columns of y (None where y is the first state) and of every new state; `grads` those of
    the gradients of x and of every state. A gradient of a parameter is a value of the tape, whose leaves are
    parameters, `products` (two lists of columns, multiplied and summed over rows and steps) and `sums`.
    """

    atoms: tuple[Atom, ...]
    wheres: tuple[str, ...]
    names: dict[int, str]
    tape: Tape
    y: Refs | None
    states: tuple[Refs, ...]
    dx: Refs | None
    dstates: tuple[Refs | None, ...]
    dparameters: dict[str, int]
    products: tuple[tuple[Refs, Refs], ...]
    sums: tuple[Refs, ...]
    widths: tuple[int, ...]
    input_size: int
    dtype: torch.dtype


def capture(cell: Cell, dtype: torch.dtype, gradient_names: bool = False) -> Step:
    """Trace one step of a cell; on request the gradient of a value i is named too: di.

    >>> from cellwright.cells import RNN
    >>> step = capture(RNN(3, 5), torch.float32)
    >>> sorted(step.dparameters), step.names[len(step.names)]  # doctest: +SKIP

    Raises:
        Refused: this cell's step cannot become loops; the message says why, and where.
    """
    first, second = batch_sizes(cell)[:2]
    step = _trace(cell, dtype, first, gradient_names)
    again = _trace(cell, dtype, second, named=False)
    if again.atoms != step.atoms or len(again.tape.entries) != len(step.tape.entries):
        raise Refused("the step computes something else for another batch size")
    if not all(_equal(one.leaf, other.leaf) for one, other in zip(step.tape.entries, again.tape.entries, strict=True)):
        raise Refused("the step takes numbers out of its tensors, past PyTorch")
    return step


def batch_sizes(cell: Cell) -> list[int]:
    """Numbers of rows that are nobody's number of columns, so that a tensor's shape tells whether it has rows."""
    taken = {size for tensor in _tensors(cell) for size in tensor.shape} | {cell.fed_size}
    taken |= {state.shape[1] for state in cell.initial_state(1)}
    return [size for size in (11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59) if size not in taken]


def _equal(one: Any, other: Any) -> bool:
    """Whether two leaves are the same: constants hold the same numbers."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return isinstance(one, Tensor) == isinstance(other, Tensor)
    with _disable_current_modes():
        return one.shape == other.shape and torch.equal(one, other)


def _tensors(cell: Cell) -> Iterator[Tensor]:
    yield from cell.parameters()
    yield from cell.buffers()


def _trace(cell: Cell, dtype: torch.dtype, batch: int, gradient_names: bool = False, named: bool = True) -> Step:
    trace = Trace(batch, dtype)
    generator = torch.Generator().manual_seed(batch)

    def rows(columns: int) -> Tensor:
        return torch.rand(batch, columns, generator=generator, dtype=torch.float64).to(dtype)

    states = [rows(state.shape[1]) for state in cell.initial_state(1)]
    x = rows(cell.fed_size)
    given = {name: _copy(tensor) for name, tensor in cell.named_parameters()}
    fixed = {name: _copy(tensor) for name, tensor in cell.named_buffers()}
    trace.add_rows(x, "x", 0)
    for place, state in enumerate(states):
        trace.add_rows(state, "state", place)
    for name, tensor in {**given, **fixed}.items():
        trace.add_weight(tensor, name)
    inputs = [x, *states, *given.values()]
    primal = [tensor.requires_grad_(tensor.is_floating_point()) for tensor in inputs]
    before = _plain_attributes(cell)
    names: dict[int, str] = {}
    seen = watched(cell, partial(_name, trace, names, gradient_names)) if named else nullcontext()
    with torch.enable_grad(), trace, seen, _in_words():
        result = torch.func.functional_call(cell, {**given, **fixed}, (x, *states))
    if _plain_attributes(cell) != before:
        raise Refused("the step changes attributes of its module")
    y, new = cell.split_output(result)
    outputs = list(new) if y is new[0] else [y, *new]
    _check_outputs(outputs, batch, states, len(outputs) - len(new))
    trace.in_step = False
    tangents = []
    for place, output in enumerate(outputs, start=len(new) - len(outputs)):
        tangents.append(_tangent(trace, "dy" if place < 0 else "dstate", max(place, 0), rows(output.shape[1])))
    if len(outputs) == len(new):  # y is the first state, whose gradient comes from both
        shown = _tangent(trace, "dy", 0, rows(outputs[0].shape[1]))
        with trace:
            tangents[0] = tangents[0] + shown
    grads = _gradients(trace, outputs, primal, tangents)
    columns = [_columns(trace, output) for output in outputs]
    found = [None if grad is None else _columns(trace, grad) for grad in grads[: 1 + len(states)]]
    wanted = {n: trace.value(g) for n, g in zip(given, grads[1 + len(states) :], strict=True) if g is not None}
    return Step(
        tuple(trace.atoms.items),
        tuple(trace.atoms.wheres),
        names,
        trace.tape,
        columns[0] if len(outputs) > len(new) else None,
        tuple(columns[len(outputs) - len(new) :]),
        found[0],
        tuple(found[1:]),
        wanted,
        tuple(trace.products),
        tuple(trace.sums),
        tuple(state.shape[1] for state in states),
        cell.fed_size,
        dtype,
    )


def _copy(tensor: Tensor) -> Tensor:
    """A weight to trace with; any of its shape where torch.export holds back the values: they decide nothing."""
    if isinstance(tensor, (FakeTensor, FunctionalTensor)):
        return torch.rand(tuple(tensor.shape)).to(tensor.dtype)
    return tensor.detach().clone()


@contextmanager
def _in_words() -> Iterator[None]:
    """Whatever a step raises while it is traced is a reason why it cannot be."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        said = str(error).strip().splitlines() or [""]
        raise Refused(f"the step raised {type(error).__name__} while it was traced: {said[0]}") from error


def _tangent(trace: Trace, op: str, detail: int, tensor: Tensor) -> Tensor:
    trace.add_rows(tensor, op, detail)
    return tensor


class _Ends(torch.autograd.Function):
    """A number whose derivative by each output is the tangent given for it. Handed tangents for several outputs,
    torch.autograd.grad imports all of sympy to compare their shapes, half a second."""

    @staticmethod
    def forward(ctx: Any, tangents: list[Tensor], *outputs: Tensor) -> Tensor:
        ctx.tangents = tangents
        return torch.zeros((), dtype=outputs[0].dtype)

    @staticmethod
    def backward(ctx: Any, one: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *ctx.tangents)


def _gradients(
    trace: Trace, outputs: list[Tensor], primal: list[Tensor], tangents: list[Tensor]
) -> tuple[Tensor | None, ...]:
    used = [(output, tangent) for output, tangent in zip(outputs, tangents, strict=True) if output.requires_grad]
    wanted = [tensor for tensor in primal if tensor.requires_grad]
    if not used:
        return (None,) * len(primal)
    with torch.enable_grad():
        ends = _Ends.apply([t for _, t in used], *(o for o, _ in used))  # type: ignore[no-untyped-call]
    with trace:
        grads = iter(torch.autograd.grad(ends, wanted, allow_unused=True))
    return tuple(next(grads) if tensor.requires_grad else None for tensor in primal)


def _check_outputs(outputs: list[Tensor], batch: int, states: list[Tensor], extra: int) -> None:
    for place, output in enumerate(outputs):
        if output.dim() != 2 or output.shape[0] != batch:
            raise Refused(f"an output of shape {tuple(output.shape)} is not (B, columns)")
        if place >= extra and output.shape != states[place - extra].shape:
            raise Refused("a state changes its shape")


def _columns(trace: Trace, tensor: Tensor) -> Refs:
    try:
        shadow = trace.shadow(tensor.detach())
        if trace.shadows.axis([shadow]) not in (-2, None):
            raise Mixed
        refs: Refs = trace.shadows.columns(shadow, -2).reshape(-1).numpy().copy()
        return refs
    except Mixed:
        raise Refused("one row of the batch depends on another") from None


def plain(value: Any) -> Any:
    """A value that tells whether another one is the same: of lists and the like by what they hold, else by identity."""
    if isinstance(value, (int, float, bool, str, type(None), torch.dtype)):
        return value
    if isinstance(value, (tuple, list)):
        return type(value), tuple(plain(one) for one in value)
    if isinstance(value, dict):
        return dict, tuple((plain(key), plain(one)) for key, one in value.items())
    if isinstance(value, (set, frozenset)):
        return set, frozenset(plain(one) for one in value)
    return id(value)


def _plain_attributes(cell: Cell) -> list[Any]:
    return [
        (name, key, plain(value))
        for name, module in cell.named_modules()
        for key, value in sorted(vars(module).items())
        if not key.startswith("_") or key in ("_version",)
    ]


def _name(trace: Trace, names: dict[int, str], gradient_too: bool, name: str, tensor: Tensor) -> None:
    if gradient_too and tensor.requires_grad and not tensor.is_leaf:
        tensor.register_hook(partial(_name, trace, names, False, f"d{name}"))  # type: ignore[no-untyped-call]
    with _disable_current_modes():
        shadow = trace.shadows.get(tensor.detach())
        if shadow is None or shadow.dim() != 2:
            return
        atoms = sorted({int(ref) >> COLUMN_BITS for ref in (shadow[0] >> ROW_BITS).tolist()})
    computed = [atom for atom in atoms if trace.atoms.items[atom].op not in ("const", "weight", "x", "state")]
    for place, atom in enumerate(computed):
        names.setdefault(atom, name if len(computed) == 1 else f"{name}_{place}")
