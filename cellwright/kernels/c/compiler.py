"""This machine's C compiler: which one it is, and a call of it."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from cellwright.errors import BackendError

SECONDS_FOR_VERSION = 30.0


class Compiler(NamedTuple):
    """A C compiler that runs here.

    >>> str(Compiler(("/usr/bin/gcc", "-m64"), "gcc 12.2.0"))
    '/usr/bin/gcc -m64'
    """

    command: tuple[str, ...]
    """What is run, its program as a whole path."""
    version: str
    """All it says of itself when asked for its version."""

    def __str__(self) -> str:
        return shlex.join(self.command)


def find_compiler() -> Compiler | None:
    """The compiler that $CC names, else the first that runs of cc, gcc, clang and the wheel `ziglang`; or None.

    Raises:
        BackendError: $CC is set, and does not run: what was chosen by name is not passed over.
    """
    chosen = os.environ.get("CC", "").strip()
    compiler, reasons = _find(chosen, os.environ.get("PATH"))
    if chosen and compiler is None:
        came = f"CC={chosen!r} ({reasons[0]})"
        raise BackendError("$CC names a C compiler that runs", came, "unset CC, or write one that runs, as in CC=gcc")
    return compiler


def need_compiler() -> Compiler:
    """The compiler of `find_compiler`.

    Raises:
        BackendError: there is none; its message says what was tried and what to install.
    """
    compiler = find_compiler()
    if compiler is None:
        tried = "; ".join(_find("", os.environ.get("PATH"))[1])
        install = "install gcc or clang, or run pip install 'cellwright[compiler]'"
        raise BackendError("the C kernels need a C compiler", f"none that runs ({tried})", install)
    return compiler


@functools.cache
def _find(chosen: str, path: str | None) -> tuple[Compiler | None, tuple[str, ...]]:
    """The first compiler that runs, with a reason for each that was passed over; $PATH is only what it depends on."""
    reasons: list[str] = []
    for words in _candidates(chosen):
        try:
            return _ask(words), tuple(reasons)
        except (OSError, ValueError) as error:
            reasons.append(f"{words}: {error}")
    if not chosen and importlib.util.find_spec("ziglang") is None:
        reasons.append("ziglang: not installed")
    return None, tuple(reasons)


def _candidates(chosen: str) -> list[str]:
    if os.name != "posix":
        return []
    if chosen:
        return [chosen]
    zig = [shlex.join((sys.executable, "-m", "ziglang", "cc"))] if importlib.util.find_spec("ziglang") else []
    return ["cc", "gcc", "clang", *zig]


def _ask(words: str) -> Compiler:
    """A compiler by its command, once it has told its version; otherwise raises, saying why."""
    program, *arguments = shlex.split(words)
    found = shutil.which(program)
    if found is None:
        raise OSError("not found")
    command = (os.path.abspath(found), *arguments)
    answer = run_compiler((*command, "--version"), None, SECONDS_FOR_VERSION)
    if answer.returncode or not answer.stdout.strip():
        raise OSError(f"asked for its version, it ended with {answer.returncode}: {first_lines(answer.stderr)}")
    return Compiler(command, answer.stdout.strip())


def run_compiler(command: tuple[str, ...], folder: Path | None, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a compiler in a folder that also takes its temporary files; it speaks English."""
    world = {**os.environ, "LC_ALL": "C"} | ({"TMPDIR": str(folder)} if folder else {})
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(
        command, cwd=folder, env=world, stdin=nothing, stdout=pipe, stderr=pipe, start_new_session=True
    ) as process:
        try:
            out, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            return subprocess.CompletedProcess(command, 1, "", f"no end within {seconds:g} s")
        except BaseException:  # interrupted
            _end(process)
            raise
    return subprocess.CompletedProcess(
        command, process.returncode, out.decode(errors="replace"), said.decode(errors="replace")
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a compiler with all that it started, so that nothing writes files any more."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def first_lines(said: str) -> str:
    """The first lines that say what is wrong, in one."""
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    wrong = [line for line in lines if "error" in line]
    return " | ".join((wrong or lines)[:3]) or "nothing"
