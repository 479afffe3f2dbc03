"""How a stranger's cell is listed: what builds it, how wide its states are, how wide its output is."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn


def one(hidden: int) -> tuple[int, ...]:
    return (hidden,)


def two(hidden: int) -> tuple[int, ...]:
    return (hidden, hidden)


def three(hidden: int) -> tuple[int, ...]:
    return (hidden, hidden, hidden)


class Entry(NamedTuple):
    """A builder (input_size, hidden_size), the widths of the states, and of an output that is not the first of them."""

    build: Callable[[int, int], nn.Module]
    widths: Callable[[int], tuple[int, ...]] = one
    output: Callable[[int], int] | None = None
