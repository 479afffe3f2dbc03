"""The flags that kernels are compiled with, and compiling with them."""

from __future__ import annotations

import errno
import os
import platform
import shlex
from pathlib import Path
from typing import NamedTuple

from cellwright.errors import BackendError
from cellwright.kernels.c.compiler import Compiler, first_lines, run_compiler

SECONDS_TO_COMPILE = 600.0


class Flag(NamedTuple):
    """A flag that is passed where the compiler takes it."""

    text: str
    machines: tuple[str, ...] = ()
    """The kinds of processor it is for; of all where empty."""
    macro: str = ""
    """What must be defined with the flags before it."""


INTEL = ("x86_64", "AMD64", "i686")
ALWAYS = ("-std=gnu11", "-O3", "-fPIC")
WHERE_TAKEN = (
    Flag("-march=native", (*INTEL, "s390x")),
    Flag("-mcpu=native", ("aarch64", "arm64", "ppc64le")),
    Flag("-mprefer-vector-width=512", INTEL, "__AVX512F__"),  # else compilers halve the vectors
    Flag("-falign-loops=64"),  # the loops of tiles are a few lines long: 4 to 9% where they do not begin at one
    Flag("-ffp-contract=fast"),  # a * b + c is rounded once
    Flag("-fno-math-errno"),  # nobody reads errno: expf and sqrtf may become vectors
    Flag("-fno-trapping-math"),  # nobody reads the exception flags; NaN and infinity stay what they are
    Flag("-Wno-psabi"),  # vectors are passed within one library only
)


_flags: dict[Compiler, tuple[str, ...]] = {}


def extra_flags() -> tuple[str, ...]:
    """Flags of the user's in $CELLWRIGHT_CFLAGS, as in "-fsanitize=thread -g"; they come last, and so win."""
    given = os.environ.get("CELLWRIGHT_CFLAGS", "")
    try:
        return tuple(shlex.split(given))
    except ValueError as error:
        raise BackendError(
            "$CELLWRIGHT_CFLAGS holds flags as a shell reads them", f"{given!r} ({error})", "close what is quoted"
        ) from error


def flags(compiler: Compiler, folder: Path) -> tuple[str, ...]:
    """All flags to compile with: those it always gets, and of the table those it takes, tried out in a folder."""
    if compiler not in _flags:
        taken: tuple[str, ...] = ALWAYS
        for flag in WHERE_TAKEN:
            here = not flag.machines or platform.machine() in flag.machines
            if here and _takes(compiler, (*taken, flag.text), flag.macro, folder):
                taken = (*taken, flag.text)
        _flags[compiler] = taken
    return _flags[compiler]


def _takes(compiler: Compiler, these: tuple[str, ...], macro: str, folder: Path) -> bool:
    must = f"#ifndef {macro}\n#error\n#endif\n" if macro else ""
    (folder / "probe.c").write_text(must + "typedef int nothing;\n")
    command = (*compiler.command, *these, "-Werror", "-c", "probe.c", "-o", "probe.o")
    done = run_compiler(command, folder, SECONDS_TO_COMPILE)
    _check_room(done.stderr, folder)
    return done.returncode == 0


def compile_library(compiler: Compiler, source: Path, headers: Path, library: Path) -> None:
    """Compile a C file into a shared library, all files on the way in the library's folder.

    Raises:
        BackendError: the compiler refuses the source; holds the first lines that it said.
        OSError: the disk is full.
    """
    names = ("-I", str(headers.absolute()), str(source), "-o", library.name)
    command = (*compiler.command, *flags(compiler, library.parent), "-shared", *names, *extra_flags(), "-lm")
    done = run_compiler(command, library.parent, SECONDS_TO_COMPILE)
    if done.returncode == 0:
        return
    _check_room(done.stderr, library.parent)
    came = f"{first_lines(done.stderr or done.stdout)} (from {compiler})"
    raise BackendError("the C source of a cell compiles", came, f"read {source}, or name another compiler with CC=")


def _check_room(said: str, folder: Path) -> None:
    """A full disk is no fault of the source or of a flag: raise what Python raises when it meets one."""
    for full in (errno.ENOSPC, errno.EDQUOT):
        if os.strerror(full) in said:
            raise OSError(full, os.strerror(full), str(folder))
