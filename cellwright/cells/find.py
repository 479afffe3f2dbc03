"""A cell by its name: from the library, or from somebody's file as `path/to/file.py:Class`."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

from cellwright.cells.cell import Cell
from cellwright.cells.library import LIBRARY
from cellwright.errors import CellError


def find_cell(name: str) -> Callable[[int, int], Cell]:
    """What builds the named cell from (input_size, hidden_size).

    >>> find_cell("lstm")(3, 5)
    LSTM(3, 5)

    Args:
        name: a name in LIBRARY, or `path/to/file.py:Class`, whose file is run as Python.

    Raises:
        CellError: no such name, file or class, or the class is no Cell.
    """
    if name in LIBRARY:
        return LIBRARY[name]
    path, colon, class_name = name.rpartition(":")
    if not colon or not path.endswith(".py"):
        close = difflib.get_close_matches(name, LIBRARY, cutoff=0.5) or ["lstm"]
        raise CellError(
            f"a cell is one of the library's {len(LIBRARY)} (docs/cells.md lists them), or path/to/file.py:Class",
            repr(name),
            f"write {' or '.join(close)}, say, or the path of a file and a class in it",
        )
    found = getattr(_load(Path(path)), class_name, None)
    if not (isinstance(found, type) and issubclass(found, Cell)):
        raise CellError(
            "path/to/file.py:Class names a class that derives from cellwright.Cell",
            f"{path}, which has no such class {class_name}",
            "write the name of a class in that file",
        )
    return found


def cell_label(name: str) -> str:
    """A short name for a cell that can stand in a path.

    >>> cell_label("lstm"), cell_label("path/to/mine.py:Gate")
    ('lstm', 'mine-Gate')
    """
    path, _, class_name = name.rpartition(":")
    return f"{Path(path).stem}-{class_name}" if path else name


def _load(path: Path) -> ModuleType:
    if not path.is_file():
        raise CellError("path/to/file.py:Class names a file that exists", str(path), "check the path")
    return _run(path.resolve(), path.stat().st_mtime_ns)


@cache
def _run(path: Path, changed: int) -> ModuleType:
    """The module of a file, run once for each time it was changed; what it prints goes to standard error."""
    spec = importlib.util.spec_from_file_location(f"cellwright_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise CellError(
            "the file of a cell runs as Python without an error",
            f"{type(error).__name__} in {path}: {' '.join(str(error).split())}",
            f"try python {path}",
        ) from error
    return module
