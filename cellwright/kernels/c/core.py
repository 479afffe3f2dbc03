"""Core: the functions of core.h, which are the same for every cell, compiled once."""

from __future__ import annotations

import ctypes
import functools
from array import array
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cellwright.kernels.c.build import load
from cellwright.kernels.c.openmp import launch, thread_functions

HEADERS = Path(__file__).parent


class Core(ctypes.Structure):
    """The table of functions in core.h, compiled once for all cells."""

    _fields_ = (
        ("tiles", ctypes.c_void_p),
        ("pack", ctypes.c_void_p),
        ("digest", ctypes.c_void_p),
        ("contract", ctypes.c_void_p),
        ("contract_scratch", ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_long)),
    )


@functools.cache
def core(dtype: torch.dtype) -> Core:
    """The core for numbers of this type."""
    real = "#define REAL_DOUBLE\n" if dtype == torch.float64 else ""
    library = load(f'// The core for {dtype}.\n#define CELLWRIGHT_CORE\n{real}#include "core.h"\n', HEADERS)
    library.core.restype = ctypes.POINTER(Core)
    table: Core = library.core().contents
    return table


def digest(table: Core, tensors: list[Tensor]) -> tuple[Any, ...]:
    """Numbers that tell the contents of these tensors from others."""
    whole = [tensor.detach().contiguous() for tensor in tensors]
    threads = torch.get_num_threads()
    pieces = array("q", [part for t in whole for part in (t.data_ptr(), t.numel() * t.element_size())] or [0])
    found = array("q", [0] * (len(whole) * threads) or [0])
    values = (len(whole), pieces.buffer_info()[0], found.buffer_info()[0], *thread_functions())
    argument = array("q", values)
    launch(table.digest or 0, argument.buffer_info()[0], threads)
    return (*(tensor.shape for tensor in tensors), *found)
