"""Which backend runs a cell, and the reason in words."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.utils._python_dispatch import _disable_current_modes

from cellwright.cells import Cell
from cellwright.cells.stacked import Template, template
from cellwright.errors import BackendError
from cellwright.kernels.c.compiler import find_compiler
from cellwright.kernels.c.run import Fused
from cellwright.kernels.function import First, Unrolled, run_eager, run_fused
from cellwright.kernels.fuse import Entry, Seen, Target, fuse, look
from cellwright.kernels.operator import leaves_of, name_of, run_operator
from cellwright.kernels.readings import MOST, attributes
from cellwright.kernels.torch_nn import run_torch, standard_form
from cellwright.kernels.triton.target import TRITON, lacking
from cellwright.step import Ragged, batch_size

Runner = Callable[[Cell, Tensor, Any, Ragged | None], tuple[Tensor, tuple[Tensor, ...]]]
PLAIN = (int, float, str)
BACKENDS = ("auto", "c", "triton", "torch", "eager")
ASKED = "asked for by name"


def _no_compiler() -> str | None:
    return "no C compiler was found" if find_compiler() is None else None


C = Target("c", (torch.float32, torch.float64), _no_compiler, Fused)
RULES = {
    "c": "backend 'c' runs cells whose step can be traced and planned, in float32 or float64 on the CPU",
    "triton": "backend 'triton' runs cells whose step can be traced and planned, on a GPU, with the package triton",
}


class Choice(NamedTuple):
    """A backend's name, the function that runs it, and why it was taken."""

    backend: str
    run: Runner
    reason: str
    entry: Entry | None = None


def choose(cell: Cell, backend: str = "auto", x: Tensor | None = None) -> Choice:
    """The backend for a cell: the one asked for, or the fastest that computes the same.

    >>> from cellwright.cells import GRU
    >>> choose(GRU(3, 5), "torch").backend, choose(GRU(3, 5, reset_after=False), "eager").backend
    ('torch', 'eager')

    Args:
        cell: the cell.
        backend: "auto", or one of the others by name.
        x: what it will run on: its type, device, and whether its gradient is wanted (default: as the weights, and not).

    Raises:
        BackendError: the backend does not exist, or was asked for by name and cannot run this cell.
    """
    if backend not in BACKENDS:
        raise BackendError(f"a backend is one of {', '.join(BACKENDS)}", repr(backend), "write one of those names")
    if backend == "eager":
        return Choice("eager", run_eager, f"{ASKED}: the equations step by step in a Python loop")
    if backend == "torch":
        return _torch(cell, ASKED)
    like = x if x is not None else next(cell.parameters(), torch.empty(0)).detach()
    if transformed(like):
        return Choice("eager", run_eager, "under a transform of torch.func the equations run step by step")
    seen, needs_x = look(cell), like.requires_grad and torch.is_grad_enabled()
    key = (backend, like.dtype, like.device, needs_x)
    known: Choice | None = seen.choices.get(key)
    if known is not None:
        return known
    entry = _fused(cell, seen, like, backend, needs_x)
    if entry.fused is not None:
        asked = "on the CPU it is the fastest" if backend == "auto" else ASKED
        name = "c" if backend == "auto" else backend
        run = partial(run_fused, entry.fused, seen.leaves)
        known = seen.choices[key] = Choice(name, run, f"{asked}: {entry.reason}", entry)
        return known
    if backend != "auto":
        raise BackendError(
            RULES[backend], f"{cell.in_one_line()}: {entry.reason}", "write backend='auto' or backend='eager'"
        )
    if find_compiler() is None:
        _warn_once()
    if standard_form(cell) is not None:
        return _torch(cell, f"{entry.reason}; {cell.in_one_line()} is exactly a cell of torch.nn")
    return Choice("eager", run_eager, f"{entry.reason}: the equations run step by step")


def run_cell(
    cell: Cell, backend: str, x: Tensor, state: tuple[Tensor, ...] | None, ragged: Ragged | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a cell over a sequence on the backend for it, also where torch.compile or torch.export traces.

    Args:
        cell: the cell.
        backend: as for `choose`.
        x: inputs (T, B, I); where ragged is given, (N, I).
        state: the states before the first step, each (B, H); None: as the cell begins.
        ragged: which rows are which step's.

    Returns:
        The outputs y, laid out as x, and the states after each sequence's last step, each (1, B, H).
    """
    if torch.is_autocast_enabled("cpu") and x.is_cpu and backend != "eager":
        with torch.autocast("cpu", enabled=False):  # the loops run in the type of the weights, as x does
            return run_cell(cell, backend, x, state, ragged)
    if not traced(x):
        choice = _without_resets(choose(cell, backend, x), cell, ragged)
        return choice.run(cell, x, _first(choice.entry, cell, x, state, ragged), ragged)
    _look_at_settings(cell)
    state = beginning(cell, x, ragged) if state is None else state
    needs_x = torch.compiler.is_exporting() or (x.requires_grad and torch.is_grad_enabled())
    found, name = _choose_traced(cell, backend, x.dtype, x.device.type, needs_x)
    if name:
        return run_operator(name, leaves_of(cell), x, state, ragged)
    plain = found == "torch" and (ragged is None or ragged.resets is None)
    return (run_torch if plain else run_eager)(cell, x, state, ragged)


def run_weights(
    kind: Template,
    weights: dict[str, Tensor],
    backend: str,
    x: Tensor,
    state: tuple[Tensor, ...] | None,
    ragged: Ragged | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As `run_cell`, of a cell on weights from outside.

    Args:
        kind: which cell, as `template` takes it.
        weights: by name, all that the cell has, of the same shapes.
        backend: "auto", "c" or "eager".
        x: inputs (T, B, I); where ragged is given, (N, I).
        state: the states before the first step, each (B, H); None: as the cell begins.
        ragged: which rows are which step's.
    """
    if traced(x):
        needs_x = torch.compiler.is_exporting() or (x.requires_grad and torch.is_grad_enabled())
        found, name = _choose_template(kind, backend, x.dtype, x.device.type, needs_x)
        if name:
            state = beginning(_template(kind), x, ragged) if state is None else state
            return run_operator(name, weights, x, state, ragged)
        if torch.compiler.is_compiling():
            raise BackendError(
                "torch.compile takes layers that backend 'c' or 'triton' runs, as one operator",
                f"backend {found!r}",
                "compile less",
            )
    return run_with(_template(kind) if traced(x) else template(*kind), weights, backend, x, state, ragged)


def run_with(
    cell: Cell,
    weights: dict[str, Tensor],
    backend: str,
    x: Tensor,
    state: tuple[Tensor, ...] | None,
    ragged: Ragged | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As `run_cell`, of a cell in whose place these weights are taken."""
    entry = None if backend == "eager" else choose(cell, backend, x).entry
    if entry is not None and entry.fused is not None and not traced(x):
        return run_fused(entry.fused, weights, cell, x, _first(entry, cell, x, state, ragged), ragged)
    state = beginning(cell, x, ragged) if state is None else state
    given = {f"cell.{name}": weight for name, weight in weights.items()}
    y, *last = torch.func.functional_call(Unrolled(cell), given, (x, state, ragged))
    return y, tuple(one.unsqueeze(0) for one in last)


def beginning(cell: Cell, x: Tensor, ragged: Ragged | None) -> tuple[Tensor, ...]:
    """The states that a cell begins with, each (B, H)."""
    return cell.initial_state(batch_size(x, ragged), like=x)


def _first(
    entry: Entry | None, cell: Cell, x: Tensor, state: tuple[Tensor, ...] | None, ragged: Ragged | None
) -> First:
    """The states before the first step: compiled loops write zeros themselves."""
    if state is not None:
        return state
    plain = getattr(cell.initial_state, "__func__", None) is Cell.initial_state
    fused = entry is not None and entry.fused is not None
    return (None,) * len(cell.state) if plain and fused else beginning(cell, x, ragged)


def _without_resets(choice: Choice, cell: Cell, ragged: Ragged | None) -> Choice:
    """Kernels of torch.nn have no resets: a choice that was free falls back on the equations."""
    if choice.backend != "torch" or ragged is None or ragged.resets is None:
        return choice
    if choice.reason.startswith(ASKED):
        raise BackendError(
            "backend 'torch' runs what torch.nn runs: no resets in mid-sequence",
            f"resets for {cell.in_one_line()}",
            "write backend='auto', backend='c' or backend='eager'",
        )
    return Choice("eager", run_eager, "with resets the equations run step by step")


def traced(x: Tensor) -> bool:
    """Whether x has no values of its own: operations on it only become nodes of a graph."""
    return torch.compiler.is_compiling() or isinstance(x, (FakeTensor, FunctionalTensor))


def _look_at_settings(cell: Cell) -> None:
    """Read what a step may read from its module: torch.compile guards what it sees being looked at."""
    for path, key, known in _settings(cell):
        part: Any = cell
        for name in path:
            part = getattr(part, name)
        value = getattr(part, key)
        if known is None:
            id(value)
        elif value != known:
            raise AssertionError  # never: `known` was read a moment ago


def _settings(cell: Cell) -> tuple[tuple[tuple[str, ...], str, Any], ...]:
    """Of every attribute: the path of its module, its name, and its value if that tells more than its identity."""
    modules = [(tuple(path.split(".")) if path else (), module) for path, module in cell.named_modules()]
    known: set[int] = set()
    return tuple(found for path, module in modules for found in _attributes(path, vars(module), known))


def _attributes(
    path: tuple[str, ...], table: dict[str, Any], known: set[int]
) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    for key, value in sorted(table.items()):
        if not key.startswith("_"):
            yield path, key, value if isinstance(value, PLAIN) and value == value else None
            inside = attributes(value)
            if inside is not None and id(value) not in known and len(known) < MOST:
                known.add(id(value))
                yield from _attributes((*path, key), inside, known)


def _choose_traced(cell: Cell, backend: str, dtype: torch.dtype, device: str, needs_x: bool) -> tuple[str, str]:
    """The backend for a cell that is being traced, and the name that operators know it by; "" where none runs it."""
    with _disable_current_modes():
        like = torch.empty(0, dtype=dtype, device=device, requires_grad=needs_x)
        choice = choose(cell, backend, like)
        form = standard_form(cell) if choice.backend == "torch" and torch.is_grad_enabled() else None
        if form is not None and form.kernel == "lstm":
            return "eager", ""  # torch 2.13 fails to compile the gradients of its own kernel for it
        if choice.entry is None:
            return choice.backend, ""
        if choice.backend == "triton" and torch.compiler.is_exporting():
            return "eager", ""  # an exported program is read by machines of all kinds
        return choice.backend, name_of(choice.entry, cell, whole=torch.compiler.is_exporting())


def _choose_template(kind: Template, backend: str, dtype: torch.dtype, device: str, needs_x: bool) -> tuple[str, str]:
    if backend == "eager":
        return "eager", ""
    with torch._C.DisableTorchFunction():  # else torch.export notes down where gradients are switched off in here
        return _choose_traced(_template(kind), backend, dtype, device, needs_x)


def _template(kind: Template) -> Cell:
    with _disable_current_modes():  # its weights are no part of what is traced
        return template(*kind)


# What torch.compiler.assume_constant_result does; that function imports all of torch._dynamo, a second or more.
_settings._dynamo_marked_constant = True  # type: ignore[attr-defined]
_choose_traced._dynamo_marked_constant = True  # type: ignore[attr-defined]
_choose_template._dynamo_marked_constant = True  # type: ignore[attr-defined]


def transformed(like: Tensor) -> bool:
    """Whether a function transform of PyTorch (vmap, grad, jvp, forward-mode derivatives) is at work."""
    forward_mode: int = torch.autograd.forward_ad._current_level
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_mode >= 0


def _fused(cell: Cell, seen: Seen, like: Tensor, backend: str, needs_x: bool) -> Entry:
    target, lacks = C, None
    if backend == "triton":
        target, lacks = TRITON, lacking(like.device)
    elif not like.is_cpu:
        lacks = f"the loops in C run on the CPU, not on {like.device.type}"
    if lacks is not None:
        return Entry(None, lacks)
    return fuse(target, cell, seen, like.dtype, needs_x)


def _torch(cell: Cell, why: str) -> Choice:
    form = standard_form(cell)
    if form is None:
        raise BackendError(
            "backend 'torch' runs exactly the cells of torch.nn: RNN, GRU with the reset after the product, LSTM",
            f"{cell.in_one_line()}, whose equations torch.nn does not have",
            "write backend='auto', backend='c' or backend='eager'",
        )
    return Choice("torch", run_torch, f"{why}: PyTorch's own kernel {form.kernel} runs it")


def _warn_once() -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            "no C compiler was found: cells run several times slower; install gcc or clang, "
            'or pip install "cellwright[compiler]"',
            stacklevel=4,
        )


_warned = False
