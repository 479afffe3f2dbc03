"""Written: a Step as a line of text and back, so that an exported program holds all that it computes.

What is read may come from anywhere: it becomes data of the classes below, operators of `torch.ops.aten` and
numbers, and never calls anything else.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cellwright.step.atoms import COLUMN_BITS, Atom, Read, Weight, segments
from cellwright.step.capture import Step
from cellwright.step.tape import Entry, Tape, Value

TUPLES: dict[str, Any] = {kind.__name__: kind for kind in (Atom, Read, Weight, Entry)}
OF_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)


def write(step: Step) -> str:
    """A step as text.

    >>> from cellwright.cells import RNN
    >>> from cellwright.step.capture import capture
    >>> step = capture(RNN(3, 5), torch.float32)
    >>> read(write(step)).atoms == step.atoms
    True
    """
    fields = {field.name: getattr(step, field.name) for field in dataclasses.fields(step)}
    fields["wheres"] = ("",) * len(step.wheres)  # lines of the author's files: of no use elsewhere
    return json.dumps(_write(fields), separators=(",", ":"))


def read(text: str) -> Step:
    """The step that `write` wrote.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is not one.
    """
    return Step(**_read(json.loads(text)))


def _write(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [_write(one) for one in value]
    if isinstance(value, np.ndarray):
        return {"columns": [list(part) for part in segments(value)]}
    if isinstance(value, Tensor):
        return {"tensor": [str(value.dtype), list(value.shape), value.detach().reshape(-1).tolist()]}
    if isinstance(value, Value):
        return {"value": value.number}
    if isinstance(value, Tape):
        return {"tape": [_write(entry) for entry in value.entries]}
    if isinstance(value, torch._ops.OpOverload) and value.namespace == "aten":
        return {"aten": [value.overloadpacket.__name__, value._overloadname]}
    if isinstance(value, dict):
        return {"dict": [[_write(key), _write(one)] for key, one in value.items()]}
    if isinstance(value, OF_TORCH):
        return {"torch": str(value)}
    if isinstance(value, tuple):
        kind = type(value).__name__ if type(value).__name__ in TUPLES else "tuple"
        return {kind: [_write(one) for one in value]}
    raise TypeError(f"{value!r} in a step cannot be written down")


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return [_read(one) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = value.items()
    if kind in TUPLES:
        return TUPLES[kind](*map(_read, inside))
    return READERS[kind](inside)


def _read_columns(parts: list[list[int]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    reads = [Read(*part) for part in parts]
    runs = [(r.atom << COLUMN_BITS) + r.start + r.step * np.arange(r.width, dtype=np.int64) for r in reads]
    return np.concatenate(runs)


def _read_tensor(parts: list[Any]) -> Tensor:
    dtype, shape, values = parts
    return torch.tensor(values, dtype=_of_torch(dtype)).reshape(shape)


def _read_tape(entries: list[Any]) -> Tape:
    tape = Tape()
    for entry in entries:
        tape.add(_read(entry))
    return tape


def _of_torch(name: str) -> Any:
    found = getattr(torch, name.removeprefix("torch."), None)
    return found if isinstance(found, OF_TORCH) else torch.device(name)


READERS: dict[str, Any] = {
    "columns": _read_columns,
    "tensor": _read_tensor,
    "value": Value,
    "tape": _read_tape,
    "aten": lambda names: getattr(getattr(torch.ops.aten, names[0]), names[1]),
    "dict": lambda pairs: {_read(key): _read(one) for key, one in pairs},
    "torch": _of_torch,
    "tuple": lambda parts: tuple(map(_read, parts)),
}
