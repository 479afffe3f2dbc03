"""Pool: memory that comes back when the last tensor in it is gone: fresh pages cost more than filling them."""

from __future__ import annotations

import math
import threading
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cellwright.kernels.c.pages import large_pages

FINEST = 1 << 10  # numbers: pieces of nearly one size are of one size, by steps of this or of a sixty-fourth


class Piece(NamedTuple):
    """Memory by its first address, a line of the cache."""

    start: int
    array: np.ndarray[Any, np.dtype[Any]]


class Part(np.ndarray[Any, np.dtype[Any]]):
    """Numbers of what was lent, which they hold: of an array of NumPy's own class it would let go."""


class Lent(np.ndarray[Any, np.dtype[Any]]):
    """A piece as long as any tensor lies in it."""

    pool: Pool | None = None  # none yet
    piece: Piece

    def __del__(self) -> None:
        if self.pool is not None:
            self.pool.give(self.piece)


class Pool:
    """Pieces of memory of one type. What waits is never more than what was in use at once. Threads may share it."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.used = self.most = self.idle = 0
        """Numbers in use, most that ever were, and that wait."""
        self._kind = torch.empty(0, dtype=dtype).numpy().dtype
        self._waiting: dict[int, list[Piece]] = {}  # by size; what came back last is last
        self._lock = threading.RLock()  # a piece may come back, by a collection of garbage, while another is taken

    def lend(self, shape: tuple[int, ...], ahead: int = 0) -> Tensor:
        """A tensor of any numbers, whose memory comes back by itself.

        Args:
            shape: of the tensor.
            ahead: how many more numbers there is room for ahead of its first.
        """
        return torch.from_numpy(self.array(shape, ahead))

    def array(self, shape: tuple[int, ...], ahead: int = 0) -> Lent:
        """The same as an array, for views that are tensors of their own: see `view`."""
        piece = self.take(math.prod(shape) + ahead)
        lent = Lent(shape, self._kind, piece.array, ahead * self._kind.itemsize)
        lent.pool, lent.piece = self, piece
        return lent

    def take(self, size: int) -> Piece:
        """Memory for so many numbers, to be given back."""
        step = max(1 << max(size.bit_length() - 7, 0), FINEST)
        size = -(-size // step) * step
        with self._lock:
            same = self._waiting.get(size)
            self.used += size
            if self.used > self.most:
                self.most = self.used
            if same:
                self.idle -= size
                return same.pop()
        memory = large_pages(torch.empty(size, dtype=self.dtype))
        return Piece(memory.data_ptr(), memory.numpy())

    def give(self, piece: Piece) -> None:
        """Take a piece back."""
        size = len(piece.array)
        with self._lock:
            self.used -= size
            self.idle += size
            same = self._waiting.pop(size, None) or []
            same.append(piece)
            self._waiting[size] = same
            while self.idle > self.most:
                self._forget()

    def empty(self) -> None:
        """Let go all that waits."""
        with self._lock:
            self._waiting.clear()
            self.idle = 0

    def _forget(self) -> None:
        """Let go a piece of the size that has not come back for longest."""
        size, pieces = next(iter(self._waiting.items()))
        if pieces:
            self.idle -= size
            pieces.pop()
        else:
            del self._waiting[size]


def view(lent: Lent, shape: tuple[int, ...], strides: tuple[int, ...], start: int) -> Tensor:
    """Numbers of what was lent as a tensor that shares nothing with other ones there but their memory."""
    size = lent.itemsize
    return torch.from_numpy(Part(shape, lent.dtype, lent, start * size, [size * step for step in strides]))


_pools: dict[torch.dtype, Pool] = {}


def pool(dtype: torch.dtype) -> Pool:
    """The pool of all results with numbers of this type."""
    if dtype not in _pools:
        _pools[dtype] = Pool(dtype)
    return _pools[dtype]


def empty() -> None:
    """Give back to the system all memory of results that waits to be used again."""
    for one in _pools.values():
        one.empty()
