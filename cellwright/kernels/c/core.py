"""Core: the functions of core.h, which are the same for every cell, compiled once."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch

from cellwright.kernels.c.build import load

VOID = ctypes.c_void_p
HEADERS = Path(__file__).parent


class Core(ctypes.Structure):
    """The table of functions in core.h, compiled once for all cells."""

    _fields_ = (
        ("tiles", ctypes.c_void_p),
        ("pack", ctypes.c_void_p),
        ("digest", ctypes.c_void_p),
        ("contract", ctypes.CFUNCTYPE(ctypes.c_long, VOID, *[ctypes.c_long] * 2, VOID, VOID, *[ctypes.c_int] * 2)),
        ("multiply_fresh", ctypes.c_void_p),
        ("multiply_thirds", ctypes.c_void_p),
        ("multiply_odd", ctypes.c_void_p),
        ("pack_thirds", ctypes.c_void_p),
        ("release_tiles", ctypes.c_void_p),
    )


@functools.cache
def core(dtype: torch.dtype) -> Core:
    """The core for numbers of this type."""
    real = "#define REAL_DOUBLE\n" if dtype == torch.float64 else ""
    library = load(f'// The core for {dtype}.\n#define CELLWRIGHT_CORE\n{real}#include "core.h"\n', HEADERS)
    library.core.restype = ctypes.POINTER(Core)
    table: Core = library.core().contents
    return table
