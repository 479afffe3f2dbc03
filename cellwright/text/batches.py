"""Batches of token sequences, cut as the tutorials cut them: sequentially or at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellwright.errors import TextError
from cellwright.text.vocabulary import Ids

Starts = Callable[[int], NDArray[np.int64]]


@dataclass(frozen=True)
class Batches:
    """All batches of all epochs; which tokens a batch holds follows from the seed, the epoch and its place alone.

    >>> batches = Batches(np.arange(20, dtype=np.uint8), batch_size=2, steps=4, order="sequential", seed=0)
    >>> x, y = next(batches.epoch(0))   # both (T, B)
    >>> bool((y == x + 1).all()), len(batches)
    (True, 2)

    Args:
        tokens: the text as ids (N,).
        batch_size: rows B of a batch.
        steps: time steps T of a batch.
        order: "sequential": row b of a batch goes on where row b of the batch before ended, so that the
            state can be carried; "random": every row starts anywhere, from a fresh state. Both begin at a
            random offset in every epoch, and both leave out the few tokens that fill no batch.
        seed: of offsets and order.

    Raises:
        TextError: the text does not fill one batch.
    """

    tokens: Ids
    batch_size: int
    steps: int
    order: str
    seed: int

    def __post_init__(self) -> None:
        needed = self.batch_size * self.steps + self.steps
        if len(self) < 1:
            raise TextError(
                f"training needs a text of at least batch_size * steps + steps = {needed:,} tokens",
                f"{len(self.tokens):,} tokens",
                "name a longer text, or write smaller --batch-size and --steps",
            )

    @property
    def carries_state(self) -> bool:
        """Whether each row goes on where the same row of the batch before ended."""
        return self.order == "sequential"

    def __len__(self) -> int:
        """Batches in every epoch, whatever its offset."""
        return max(len(self.tokens) - self.steps, 0) // (self.batch_size * self.steps)

    def epoch(self, number: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets, each (T, B), of an epoch, from its batch `first` on."""
        starts = ORDERS[self.order](self, np.random.default_rng([self.seed, number]))
        for place in range(first, len(self)):
            rows = np.stack([self.tokens[s : s + self.steps + 1] for s in starts(place)], axis=1)  # (T + 1, B)
            window = torch.from_numpy(rows.astype(np.int64))
            yield window[:-1], window[1:]


def sequential(batches: Batches, random: np.random.Generator) -> Starts:
    """Cut the text into B equal rows and walk down all of them side by side."""
    offset = int(random.integers(batches.steps))
    length = (len(batches.tokens) - offset - 1) // batches.batch_size
    rows = offset + length * np.arange(batches.batch_size)
    return lambda place: rows + place * batches.steps


def shuffled(batches: Batches, random: np.random.Generator) -> Starts:
    """Cut the text into sequences of T and take them in random order."""
    offset = int(random.integers(batches.steps))
    count = (len(batches.tokens) - offset - 1) // batches.steps
    order = random.permutation(count)
    size = batches.batch_size
    return lambda place: offset + batches.steps * order[place * size : (place + 1) * size]


ORDERS: dict[str, Callable[[Batches, np.random.Generator], Starts]] = {"sequential": sequential, "random": shuffled}
