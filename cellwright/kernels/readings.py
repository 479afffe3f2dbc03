"""Readings: what a step may read besides its modules and weights, so that a change of it is noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

PLAIN = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device)
KNOWN = ("torch", "cellwright", "builtins", "numpy", "math")  # packages whose own names nobody changes
MOST = 64  # entries of a list or dict, objects in all, functions in all: what is larger is data, and no setting

Table = tuple[Callable[[], tuple[Any, ...]], tuple[Any, ...]]


class Readings:
    """The settings in reach of a cell: in objects that its modules hold, and in globals, closures and classes.

    Args:
        cell: whose modules, and the functions of whose steps, are looked through.
    """

    def __init__(self, cell: nn.Module) -> None:
        self.tables: list[Table] = []
        """Functions that read values as they are now, and what they read at first: the very objects."""
        self.marks: list[tuple[str, Any]] = []
        """Where a setting was found, and its value, or which object it is."""
        self._known: set[int] = set()
        self._read: set[tuple[FunctionType, type | None]] = set()
        self._mentioned: set[str] = set()
        for module in cell.modules():
            for function in _own(type(module), ("step", "forward")):
                self._function(function, type(module))
        for name, module in cell.named_modules():
            for key in sorted(self._mentioned & module.__dict__.keys()):
                if type(value := module.__dict__[key]) not in PLAIN:
                    self._value(f"{name}.{key}".lstrip("."), value)

    def _table(self, read: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
        found = read()
        self.tables.append((read, found))
        return found

    def _value(self, path: str, value: Any) -> None:
        """A value that is no attribute of a module: a setting, or what holds settings."""
        if type(value) in PLAIN or isinstance(value, (Tensor, FunctionType)):
            self.marks.append((path, mark(value)))
            if isinstance(value, FunctionType) and _foreign(value):
                self._function(value, None)
            return
        if id(value) in self._known:
            return
        holder = value if isinstance(value, (dict, list, tuple)) else attributes(value)
        if holder is None or len(holder) > MOST or len(self._known) >= MOST:
            self.marks.append((path, Same(value)))
            return
        self._known.add(id(value))
        found = self._table(partial(_entries, holder))
        names = list(holder) if isinstance(holder, dict) else range(len(holder))
        for name, one in zip(names, found[-len(names) :] if names else (), strict=True):
            self._value(f"{path}.{name}", one)

    def _function(self, function: FunctionType, owner: type | None) -> None:
        """What a function names: globals, the variables around it, and attributes of the class it belongs to."""
        if (function, owner) in self._read or len(self._read) >= MOST:
            return
        self._read.add((function, owner))
        scope = Scope(frozenset(_names(function.__code__)), owner)
        self._mentioned |= scope.names
        self._table_of(function.__qualname__, function.__globals__, scope)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self._named(f"{function.__qualname__}.{name}", self._table(partial(_inside, cell))[0], scope)
        if owner is not None:
            self._class(owner, scope)

    def _class(self, kind: type, scope: Scope) -> None:
        for one in kind.__mro__:
            if _foreign(one):
                self._table_of(one.__qualname__, vars(one), scope)

    def _table_of(self, where: str, table: Mapping[str, Any], scope: Scope) -> None:
        """Of a table of globals or of a class, what a function names."""
        wanted = tuple(name for name in sorted(scope.names & table.keys()) if _matters(table[name]))
        if wanted:
            for name, value in zip(wanted, self._table(partial(_at, table, wanted)), strict=True):
                self._named(f"{where}.{name}", value, scope)

    def _named(self, path: str, value: Any, scope: Scope) -> None:
        if isinstance(value, (staticmethod, classmethod, property)):
            value = value.fget if isinstance(value, property) else value.__func__
        if isinstance(value, FunctionType):
            self.marks.append((path, Same(value)))
            self._function(value, scope.owner)
        elif isinstance(value, type):
            self._class(value, scope)
        elif _matters(value):
            self._value(path, value)


class Scope(NamedTuple):
    """What a function can name."""

    names: frozenset[str]
    owner: type | None
    """The class of the module that it is a method of."""


class Same:
    """An object, equal to itself alone; as part of a key it stays, so that no other one takes its address."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def mark(value: Any) -> Any:
    """What a setting is known by: its value if it is a plain one, else which object it is."""
    plain = type(value) in PLAIN or (type(value) is tuple and all(type(one) in PLAIN for one in value))
    return value if plain else Same(value)


def attributes(value: Any) -> dict[str, Any] | None:
    """Of an object of a class of somebody's own: no module, tensor, class or function."""
    if isinstance(value, (nn.Module, Tensor, ModuleType, type)) or callable(value):
        return None
    return getattr(value, "__dict__", None)


def _entries(holder: Any) -> tuple[Any, ...]:
    return (*holder, *holder.values()) if isinstance(holder, dict) else tuple(holder)


def _at(table: Mapping[str, Any], names: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(map(table.get, names))


def _inside(cell: CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # not given a value yet
        return (None,)


def _matters(value: Any) -> bool:
    """Whether a name stands for a setting, or for something that may hold or read one."""
    if isinstance(value, (FunctionType, type)):
        return _foreign(value)
    return not isinstance(value, (ModuleType, nn.Module))


def _foreign(named: FunctionType | type) -> bool:
    return (named.__module__ or "").split(".")[0] not in KNOWN


def _names(code: CodeType) -> Iterator[str]:
    """All names that a function and those inside it mention."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _own(kind: type, names: tuple[str, ...]) -> Iterator[FunctionType]:
    for name in names:
        function = getattr(kind, name, None)
        if isinstance(function, FunctionType) and _foreign(function):
            yield function
