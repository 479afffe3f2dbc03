"""C functions on the threads of the OpenMP runtime that torch already uses: no second set of threads."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

Function = Callable[[Any], None]
"""A C function `void function(void *)`: of a library loaded with ctypes."""


class Team(NamedTuple):
    """What is called of an OpenMP runtime."""

    parallel: Callable[[Any, Any, int, int], None]
    """`GOMP_parallel(function, argument, threads, flags)`, which GCC's, LLVM's and Intel's runtimes all have."""
    thread: int
    """The address of `omp_get_thread_num`."""
    threads: int
    """The address of `omp_get_num_threads`."""


def launch(function: Function | int, argument: Any, threads: int) -> None:
    """Run a C function on so many threads at once, all with the same argument; return when all are done.

    Fewer threads may come than were asked for, and one where torch has no OpenMP and in a forked process: the
    function reads their number. Python runs on meanwhile (the GIL is released). Ask for torch's own number of
    threads: another one makes the runtime end and start threads at every change.

    Args:
        function: of a library loaded by `ctypes.CDLL`, or its address.
        argument: its only argument: a ctypes pointer or array, `byref(...)`, or an address.
        threads: how many.

    >>> libc = ctypes.CDLL(None)
    >>> launch(libc.free, None, threads=1)
    """
    if threads > 1 and _team is not None:
        _team.parallel(function, argument, threads, 0)
    elif isinstance(function, int):
        _callable(function)(argument)
    else:
        if function.argtypes is None:  # type: ignore[attr-defined]
            function.argtypes, function.restype = (ctypes.c_void_p,), None  # type: ignore[attr-defined]
        function(argument)


def thread_functions() -> tuple[int, int]:
    """The addresses of `omp_get_thread_num` and `omp_get_num_threads`, for C code to call; (0, 0) without OpenMP.

    >>> len(thread_functions())
    2
    """
    return (_runtime.thread, _runtime.threads) if _runtime else (0, 0)


@functools.cache
def _callable(address: int) -> Function:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


def _find() -> Team | None:
    """The runtime that torch's own calls go to; None where torch was built without one."""
    for library in _loaded_libraries():
        try:
            parallel = library.GOMP_parallel
            thread, threads = library.omp_get_thread_num, library.omp_get_num_threads
        except AttributeError:
            continue
        parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        parallel.restype = None
        return Team(parallel, _address(thread), _address(threads))
    return None


def _loaded_libraries() -> list[ctypes.CDLL]:
    """Handles on what is loaded already, in the order in which the loader bound torch's calls.

    First what is visible to all (a runtime given with LD_PRELOAD, or torch's, which it makes visible), then torch's
    own library with all that it was linked to. Neither opens a file.
    """
    if sys.platform == "win32":
        return []
    handles = [ctypes.CDLL(None)]
    name = "libtorch_cpu.dylib" if sys.platform == "darwin" else "libtorch_cpu.so"
    try:
        path = Path(torch.__file__).parent / "lib" / name
        handles.append(ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_NOW))
    except OSError:  # not loaded under this name
        pass
    return handles


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _forget_team() -> None:
    """In a forked process: the threads of the parent are not there, and the runtime would wait for them for ever."""
    global _team
    _team = None


_runtime = _find()
_team = _runtime
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_team)
