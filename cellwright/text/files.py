"""Writing files so that a crash, a full disk or a second process never leaves half of one."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from cellwright.errors import RunError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a new file beside `path`, make sure it is on disk, and rename it over `path`.

    Raises:
        RunError: it cannot be written; `path` is as it was.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~umask())
        os.replace(name, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        Path(name).unlink(missing_ok=True)


def remove_leftovers(directory: Path) -> None:
    """Remove the unfinished files of processes that were killed while they wrote."""
    for leftover in directory.glob(".*.new"):
        leftover.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON that people can read, atomically."""
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def cannot_write(path: Path, error: OSError) -> RunError:
    """The error that tells a user why a file could not be written."""
    return RunError(
        "results need a directory that can be written and room on its disk",
        f"{error.strerror or error} for {path}",
        "free some room, or name another place; what was saved before is still there",
    )


def umask() -> int:
    """Which rights new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
