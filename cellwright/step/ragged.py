"""Ragged: sequences of several lengths side by side, packed step by step, and steps that begin anew."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Ragged(NamedTuple):
    """Which rows of packed x (N, I) are which step's, as in torch's PackedSequence: longest sequence first.

    Rows starts[t] to starts[t + 1] are those of step t, one for each sequence that is not over, in the order of
    the batch.
    """

    starts: Tensor
    """(T + 1,), int64, on the CPU."""
    resets: Tensor | None = None
    """(N,), uint8, where x is: not 0 where a row begins anew, from a state of zeros."""

    def sizes(self) -> list[int]:
        """How many sequences every step has."""
        sizes: list[int] = self.starts.diff().tolist()
        return sizes


def batch_size(x: Tensor, ragged: Ragged | None) -> int:
    """B: of x (T, B, I); of packed x (N, I), the sequences of its first step."""
    return x.shape[1] if ragged is None else int(ragged.starts[1])
