"""Buffers: memory used again from run to run, packed weights, and what a forward run leaves for the backward one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


class Pool:
    """Memory that was given back, for the next run of the same size: fresh pages cost more than filling them."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, *shape: int) -> Tensor:
        found = self._kept.pop(name, None)
        return found if found is not None and found.shape == shape else like.new_empty(shape)

    def give(self, buffers: dict[str, Tensor]) -> None:
        self._kept.update(buffers)


@dataclass(eq=False)
class Packed:
    """Weights as the loops want them, and what they were made from."""

    key: tuple[Any, ...]
    vectors: dict[str, Tensor]
    whole: dict[str, Tensor]
    values: dict[int, Tensor]


@dataclass(eq=False)
class Saved:
    """What a forward run leaves for the backward one."""

    buffers: dict[str, Tensor]
    packed: Packed
    sizes: tuple[int, int]
