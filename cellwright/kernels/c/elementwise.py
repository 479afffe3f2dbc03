"""Elementwise: values of a tape as expressions of numbers in memory and their sums, and the C that computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any, NamedTuple

import torch

from cellwright.kernels.c.numbers import number
from cellwright.kernels.c.templates import ELEMENTWISE
from cellwright.kernels.gradients import in_one_piece
from cellwright.step.aten import RULES
from cellwright.step.ops import OPS
from cellwright.step.tape import TRANSPOSES, Entry, Tape, Value

aten = torch.ops.aten
Shape = tuple[int, ...]


class Held(NamedTuple):
    """Numbers in memory, a tensor of at most two dimensions."""

    name: str
    pointer: str  # in C
    shape: Shape
    strides: Shape
    leaf: int | None = None
    """The value of the tape, if it is one of its leaves."""


class Total(NamedTuple):
    """One number: the sum of numbers that lie one after the other."""

    of: Held
    shape: Shape


class Made(NamedTuple):
    """What an operation of the table makes of others, element by element."""

    op: str
    args: tuple[Any, ...]  # expressions, or numbers
    shape: Shape


Expression = Held | Total | Made


class Expressions:
    """Values of a tape as expressions.

    Args:
        tape: of a step.
        held: the numbers in memory that a value of the tape is; None where it is none.
    """

    def __init__(self, tape: Tape, held: Callable[[int], Held | None]) -> None:
        self.tape, self.held = tape, held
        self._known: dict[int, Expression | None] = {}

    def of(self, value: int) -> Expression | None:
        """The value of the tape by this number; None if it takes more than operations element by element."""
        if value not in self._known:
            self._known[value] = self.held(value) or self._made(self.tape.entries[value])
        return self._known[value]

    def _made(self, entry: Entry) -> Expression | None:
        if entry.function is None or entry.part is not None:
            return None
        args = [self.of(arg.number) if isinstance(arg, Value) else arg for arg in entry.args]
        if any(arg is None for arg in args):
            return None
        if entry.function in VIEWS:
            found: Expression | None = VIEWS[entry.function](*args)
            return found
        rule = RULES.get(getattr(entry.function, "overloadpacket", entry.function).__name__)
        if rule is None or not all(isinstance(arg, (Held, Total, Made, int, float)) for arg in args):
            return None
        try:
            made: Any = rule(_emit, *args, **entry.kwargs)
        except TypeError:  # arguments that it does not know
            return None
        return made if made.shape == _shape(*args) and len(made.shape) <= 2 else None


def _emit(op: str, *args: Any) -> Made:
    return Made(op, args, _shape(*args))


def _shape(*args: Any) -> Shape:
    shapes = [arg.shape for arg in args if isinstance(arg, (Held, Total, Made))]
    return tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]


def held_in(made: Any) -> Iterator[Held]:
    """The numbers in memory that an expression is made of."""
    if isinstance(made, (Held, Total)):
        yield made if isinstance(made, Held) else made.of
    elif isinstance(made, Made):
        for arg in made.args:
            yield from held_in(arg)


def widened(made: Any, shape: Shape) -> Any:
    """An expression broadcast to a shape."""
    if isinstance(made, Held):
        known = dict(zip(range(-len(made.shape), 0), made.strides, strict=True))
        strides = [known[dim] if -dim <= len(known) and made.shape[dim] > 1 else 0 for dim in range(-len(shape), 0)]
        return made._replace(shape=shape, strides=tuple(strides))
    if isinstance(made, Total):
        return made._replace(shape=shape)
    return Made(made.op, tuple(widened(arg, shape) for arg in made.args), shape) if isinstance(made, Made) else made


def turned(made: Any) -> Any:
    """The transpose of an expression."""
    if isinstance(made, Held):
        return made._replace(shape=made.shape[::-1], strides=made.strides[::-1])
    if isinstance(made, Total):
        return made._replace(shape=made.shape[::-1])
    if isinstance(made, Made):
        whole = widened(made, made.shape)
        return Made(made.op, tuple(map(turned, whole.args)), made.shape[::-1])
    return made


def permuted(made: Any, dims: list[int]) -> Any:
    """Dimensions in another order."""
    order = [dim % len(made.shape) for dim in dims]
    return made if order == sorted(order) else turned(made)


def viewed(made: Any, shape: list[int]) -> Any:
    """The same numbers in a shape that differs in dimensions of size 1 only."""
    if [size for size in made.shape if size > 1] != [size for size in shape if size > 1] or len(shape) > 2:
        return None
    return _viewed(widened(made, made.shape), tuple(shape))


def _viewed(made: Any, shape: Shape) -> Any:
    if isinstance(made, Held):
        left = iter([step for size, step in zip(made.shape, made.strides, strict=True) if size > 1])
        return made._replace(shape=shape, strides=tuple(next(left) if size > 1 else 0 for size in shape))
    if isinstance(made, Total):
        return made._replace(shape=shape)
    return Made(made.op, tuple(_viewed(arg, shape) for arg in made.args), shape) if isinstance(made, Made) else made


def summed(made: Any, dims: list[int] | None = None, keepdim: bool = False) -> Expression | None:
    """The sum of numbers in memory over all dimensions, where they lie one after the other."""
    whole = isinstance(made, Held) and sorted(dim % len(made.shape) for dim in dims or range(len(made.shape)))
    if whole != list(range(len(made.shape))) or made.strides != in_one_piece(made.shape):
        return None
    return Total(made, made.shape and (1,) * len(made.shape) if keepdim else ())


VIEWS: dict[Any, Callable[..., Any]] = {
    aten.detach.default: lambda made: made,
    aten.alias.default: lambda made: made,
    aten.view.default: viewed,
    aten.permute.default: permuted,
    aten.t.default: turned,
    aten.numpy_T.default: turned,
    aten.sum.default: summed,
    aten.sum.dim_IntList: summed,
}
assert set(TRANSPOSES) <= set(VIEWS)


# In C.


class Store(NamedTuple):
    """An expression, and where it goes: rows one after the other."""

    name: str
    pointer: str
    made: Expression


def render(title: str, stores: list[Store]) -> str:
    """A C function that computes expressions, each with columns shared out over the threads."""
    by_shape: dict[Shape, list[Store]] = {}
    for store in stores:
        by_shape.setdefault((1, 1, *store.made.shape)[-2:], []).append(store)
    parts, calls = [], []
    for place, ((rows, width), alike) in enumerate(by_shape.items()):
        lines = "".join(f"    {line}\n" for line in _lines(alike, (rows, width)))
        parts.append(ELEMENTWISE.format(name=f"{title}_{place}", rows=rows, width=width, lines=lines))
        calls.append(f"    {title}_{place}(arg, me, team);\n")
    parts.append(f"\nstatic void {title}(const Args *arg, long me, long team) {{\n{''.join(calls)}}}\n")
    return "".join(parts)


def _lines(stores: list[Store], shape: Shape) -> Iterator[str]:
    names: dict[Any, str] = {}
    for store in stores:
        made = widened(store.made, shape)
        yield from _computed(made, names)
        yield f"// {store.name} = {in_words(made)}"
        yield f"v_store_n({store.pointer} + row * {shape[1]} + col, {names[made]}, lanes);"


def _computed(made: Any, names: dict[Any, str]) -> Iterator[str]:
    """The lines that compute an expression, but for what is known by name."""
    if made in names:
        return
    if isinstance(made, (Held, Total)):
        code = _load(made)
    elif isinstance(made, Made):
        for arg in made.args:
            yield from _computed(arg, names)
        code = OPS[made.op].code.format(*(names[arg] for arg in made.args))
    else:
        names[made] = number(float(made))
        return
    names[made] = f"v{len(names)}"
    yield f"const vec {names[made]} = {code};"


def _load(held: Held | Total) -> str:
    if isinstance(held, Total):
        return f"v_set1(total_of({held.of.pointer}, {prod(held.of.shape)}))"
    row, column = held.strides
    line = f"{held.pointer} + {row} * row" if row else held.pointer
    if column == 0:
        return f"v_set1(({line})[0])"
    return f"v_load_n({line} + col, lanes)" if column == 1 else f"v_gather({line} + {column} * col, {column}, lanes)"


def in_words(made: Any) -> str:
    """An expression as people write it."""
    if isinstance(made, Total):
        return f"sum({in_words(made.of)})"
    if isinstance(made, Held):
        return f"{made.name}^T" if made.strides[0] == 1 < made.strides[-1] else made.name
    return OPS[made.op].text.format(*map(in_words, made.args)) if isinstance(made, Made) else str(made)
