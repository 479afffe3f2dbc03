"""Pages: large ones for large memory, which takes fewer to fill and fewer to look up."""

from __future__ import annotations

import ctypes
import sys

from torch import Tensor

LARGE = 4 << 20  # bytes
PAGE = 4096
HUGE = 14  # MADV_HUGEPAGE


def large_pages(memory: Tensor, least: int = LARGE) -> Tensor:
    """The same tensor, for whose memory Linux was asked to use large pages.

    Args:
        memory: just made.
        least: bytes that it must have for that.
    """
    start, size = memory.data_ptr() + -memory.data_ptr() % PAGE, memory.nbytes
    if _advise is not None and size >= least:
        _advise(start, (memory.data_ptr() + size - start) // PAGE * PAGE, HUGE)  # a hint, which need not be taken
    return memory


def _find() -> ctypes._NamedFuncPointer | None:
    if not sys.platform.startswith("linux"):
        return None
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return advise


_advise = _find()
