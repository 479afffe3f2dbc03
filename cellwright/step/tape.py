"""Tape: the PyTorch operations of a step that see no row of the batch, recorded to be run again on new weights."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

TRANSPOSES = (torch.ops.aten.t.default, torch.ops.aten.numpy_T.default)


@dataclass(frozen=True)
class Value:
    """A value of the tape by its number."""

    number: int


class Entry(NamedTuple):
    """How a value comes about: an operation on others, or a leaf with a name; and whether rows were summed in it."""

    function: Callable[..., Any] | None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    leaf: Any = None
    summed: bool = False
    part: int | None = None
    shape: tuple[int, ...] | None = None
    """Of a leaf with a name, if it is of the type that is computed in."""


@dataclass
class Tape:
    """Recorded operations on parameters, and on what was summed over all rows and steps."""

    entries: list[Entry] = field(default_factory=list)
    inputs: list[list[int]] = field(default_factory=list)  # of every entry, the values it reads
    _plans: dict[Any, list[int]] = field(default_factory=dict, repr=False, compare=False)  # what a replay runs through

    def add(self, entry: Entry) -> int:
        self.entries.append(entry)
        self.inputs.append(_inputs(entry))
        return len(self.entries) - 1

    def replay(
        self, wanted: Iterable[int], leaves: Callable[[Any], Tensor], known: dict[int, Tensor] | None = None
    ) -> dict[int, Tensor]:
        """The wanted values, from those that are known and from leaves(name) for every leaf that they need."""
        values: dict[int, Any] = dict(known or {})
        asked = (len(self.entries), tuple(wanted), tuple(values))
        if asked not in self._plans:
            self._plans[asked] = sorted(self.ancestors(asked[1], values) - values.keys())
        for number in self._plans[asked]:
            entry = self.entries[number]
            if entry.function is None:
                values[number] = leaves(entry.leaf)
                continue
            kwargs = {key: _filled(value, values) for key, value in entry.kwargs.items()}
            result = entry.function(*(_filled(arg, values) for arg in entry.args), **kwargs)
            values[number] = result if entry.part is None else result[entry.part]
        return values

    def root(self, number: int) -> tuple[int, bool]:
        """The value that a value is but for transposes, and whether it is transposed."""
        flipped = False
        while self.entries[number].function in TRANSPOSES:
            flipped, number = not flipped, self.inputs[number][0]
        return number, flipped

    def direct(self, number: int) -> tuple[Any, bool] | None:
        """The leaf that a value is, and whether it is transposed; None for all that takes more."""
        root, flipped = self.root(number)
        return (self.entries[root].leaf, flipped) if self.entries[root].function is None else None

    def ancestors(self, wanted: Iterable[int], known: Container[int] = ()) -> set[int]:
        """All values that the wanted ones come from, themselves included; of known ones, nothing before them."""
        needed: set[int] = set()
        stack = list(wanted)
        while stack:
            number = stack.pop()
            if number not in needed:
                needed.add(number)
                stack += [] if number in known else self.inputs[number]
        return needed


def _inputs(entry: Entry) -> list[int]:
    found: list[int] = []
    tree_map_only(Value, lambda value: found.append(value.number), (entry.args, entry.kwargs))
    return found


def _filled(arg: Any, values: dict[int, Any]) -> Any:
    if isinstance(arg, Value):
        return values[arg.number]
    return [_filled(one, values) for one in arg] if isinstance(arg, (list, tuple)) else arg
