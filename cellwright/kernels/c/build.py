"""From C source to a loaded library: compiled once for this machine, kept in a cache that only its user can write."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from cellwright.cache import own_file, own_folder, private_folder, user_cache
from cellwright.errors import BackendError
from cellwright.kernels.c.compiler import Compiler as Compiler
from cellwright.kernels.c.compiler import find_compiler as find_compiler
from cellwright.kernels.c.compiler import need_compiler
from cellwright.kernels.c.flags import ALWAYS, WHERE_TAKEN, compile_library, extra_flags

FORMAT = 1  # raise it when files in the cache change their meaning
SECONDS_OF_LEFTOVERS = 3600.0
OF_THE_PROCESSOR = {
    *("vendor_id", "cpu family", "model", "model name", "stepping", "flags"),  # Intel, AMD
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features"),  # ARM
    *("cpu", "revision", "isa", "uarch", "features"),  # POWER, RISC-V, Z
}
_loaded: dict[str, ctypes.CDLL] = {}
_warned: set[int] = set()  # the processes that were told that nothing is kept


def load(source: str, headers: Path) -> ctypes.CDLL:
    """The library of a C source that includes files of a folder: from this process, the cache, or the compiler.

    Args:
        source: the whole C source.
        headers: the folder whose `*.h` the source may include.

    Raises:
        BackendError: no compiler runs, it refuses the source, or no folder takes the library.
    """
    key = _key(source, headers)
    if key not in _loaded:
        _loaded.setdefault(key, _open(key, source, headers))  # of two threads at once, the first one's stays
    return _loaded[key]


def library_path(source: str, headers: Path) -> Path:
    """The file in the cache that `load` opens, or makes; its C source lies beside it under the same name."""
    return cache_folder() / f"{_key(source, headers)}.so"


def cache_folder() -> Path:
    """Where libraries are kept: $CELLWRIGHT_CACHE, else `c` in the user's cache folder."""
    named = os.environ.get("CELLWRIGHT_CACHE")
    return Path(named).expanduser().absolute() if named else user_cache() / "c"


def _key(source: str, headers: Path) -> str:
    """A name for everything that the library depends on."""
    included = {path.name: path.read_text(encoding="utf-8") for path in sorted(headers.glob("*.h"))}
    # The table stands for the flags taken of it: which these are follows from the compiler and the machine.
    parts = (FORMAT, source, included, ALWAYS, WHERE_TAKEN, extra_flags(), need_compiler(), machine())
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]


@functools.cache
def machine() -> tuple[str, ...]:
    """This machine, as far as what is compiled for it may not run on another one."""
    libc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else ""
    return sys.platform, platform.machine(), libc or "", *_processor()


def _processor() -> list[str]:
    try:
        if sys.platform == "darwin":
            command = ("/usr/sbin/sysctl", "machdep.cpu", "hw.optional")
            return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.splitlines()
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, subprocess.SubprocessError):
        return [platform.node()]  # unknown: share with no other machine
    return sorted({line for line in lines if line.partition(":")[0].strip() in OF_THE_PROCESSOR})


def _open(key: str, source: str, headers: Path) -> ctypes.CDLL:
    """Load from the cache; where it cannot be used, from a private folder, saying why once."""
    try:
        return _open_in(own_folder(cache_folder()), key, source, headers)
    except OSError as error:
        why = " ".join(str(error).split())
    try:
        library = _open_in(own_folder(private_folder(os.getpid())), key, source, headers)
    except OSError as error:
        came = f"{why}; {' '.join(str(error).split())}"
        write = "set CELLWRIGHT_CACHE to a folder that only you can write, on a disk that programs may run from"
        raise BackendError("a compiled cell is loaded from a folder of your own", came, write) from error
    _warn_once(why)
    return library


def _warn_once(why: str) -> None:
    if os.getpid() not in _warned:
        _warned.add(os.getpid())
        told = f"compiled cells are not kept ({why}): every process compiles its own"
        warnings.warn(f"{told}; set CELLWRIGHT_CACHE to a folder that only you can write", stacklevel=4)


def _open_in(folder: Path, key: str, source: str, headers: Path) -> ctypes.CDLL:
    library = folder / f"{key}.so"
    if _intact(library):
        with contextlib.suppress(OSError):  # as when the home folder is shared with a machine that has another libc
            return ctypes.CDLL(str(library))
    _build(library, source, headers)
    return ctypes.CDLL(str(library))


def _intact(library: Path) -> bool:
    """Whether a library is whole: loading half of one would end the process."""
    record = library.with_suffix(".sha256")
    return own_file(library) and own_file(record) and record.read_bytes() == _digest(library).encode()


def _build(library: Path, source: str, headers: Path) -> None:
    """Compile in a folder beside, then rename: never half a file, and processes that build the same do not meet."""
    _remove_leftovers(library.parent)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=library.parent, ignore_cleanup_errors=True) as name:
        kept, new = library.with_suffix(".c"), Path(name) / "cell.so"
        _put(kept, source, new)
        compile_library(need_compiler(), kept, headers, new)
        new.chmod(0o700)
        digest = _digest(new)
        os.replace(new, library)
        _put(library.with_suffix(".sha256"), digest, new)


def _put(path: Path, text: str, temporary: Path) -> None:
    temporary.write_text(text, encoding="utf-8")
    temporary.chmod(0o600)
    os.replace(temporary, path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed while they built have left."""
    for leftover in folder.glob(".new-*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.lstat().st_mtime > SECONDS_OF_LEFTOVERS:
                shutil.rmtree(leftover)
