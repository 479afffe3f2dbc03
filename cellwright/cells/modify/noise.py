"""Noise on states: zoneout and recurrent dropout, with masks that come in as columns beside x."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cellwright.cells.feed import Feed
from cellwright.cells.modify.modified import Modified, checked_share
from cellwright.errors import SettingError


class Noisy(Modified):
    """A modifier with a mask for some of the states while it trains."""

    def __init__(self, cell: nn.Module, share: float | Mapping[str, float]) -> None:
        super().__init__(cell)
        self.shares = self._by_state(share)

    def _by_state(self, share: float | Mapping[str, float]) -> tuple[float, ...]:
        """Of every state, its share; 0 for those that are not named."""
        if not isinstance(share, Mapping):
            return (checked_share("share", share),) * len(self.state)
        if not share.keys() <= set(self.state):
            raise SettingError(
                f"shares are by state: {', '.join(self.state)}", ", ".join(map(repr, share)), "name those states"
            )
        return tuple(checked_share(f"the share of {name}", share.get(name, 0)) for name in self.state)

    @property
    def own(self) -> int:
        return sum(size for size, share in zip(self.state_sizes, self.shares, strict=True) if share) * self.training

    def masks(self, columns: Tensor) -> list[Tensor | None]:
        """Of every state, its mask (B, H); None where it has none."""
        widths = [
            size if share and self.training else 0 for size, share in zip(self.state_sizes, self.shares, strict=True)
        ]
        parts = columns.split(widths, dim=1)  # type: ignore[no-untyped-call]
        return [part if width else None for part, width in zip(parts, widths, strict=True)]


class Zoneout(Noisy):
    r"""Zoneout: while training, every unit of a state keeps its old value with some probability.

    >>> from cellwright.cells import LSTM
    >>> cell = Zoneout(LSTM(3, 5), {"c": 0.5, "h": 0.05})
    >>> h, c = cell(torch.zeros(2, 3), torch.ones(2, 5), torch.ones(2, 5))
    >>> bool((c == 1).any())
    True

    .. math::
        s_t &= d_t \odot s_{t-1} + (1 - d_t) \odot \tilde s_t, \quad d_t \sim \text{Bernoulli}(p)
            && \text{training} \\
        s_t &= p\, s_{t-1} + (1 - p)\, \tilde s_t && \text{evaluation}

    Args:
        cell: the cell that computes the new states :math:`\tilde s_t`.
        share: p, for all states, or by their names; at least 0 and below 1 (default 0.1).

    Source: Krueger et al. (2017), arXiv 1606.01305, equations 4 and 5; the output is the state after zoneout.
    """

    def __init__(self, cell: nn.Module, share: float | Mapping[str, float] = 0.1) -> None:
        super().__init__(cell, share)

    def columns(self, given: Feed) -> Feed:
        shares = zip(self.state_sizes, self.shares, strict=True)
        return given.beside(
            *(given.chance_by_step(size, 1 - share) for size, share in shares if share and self.training)
        )

    def step(self, x: Tensor, *state: Tensor) -> Any:
        x, columns = self.apart(x)
        before = self.cell.begin(x, *state)
        y, new = self.inner(x, *state)
        kept = zip(self.masks(columns), self.shares, before, new, strict=True)
        states = [_zoned(mask, share, old, now) for mask, share, old, now in kept]
        return self.outcome(y, states)


def _zoned(mask: Tensor | None, share: float, old: Tensor, new: Tensor) -> Tensor:
    if mask is not None:
        return torch.where(mask > 0, old, new)
    return share * old + (1 - share) * new if share else new


class RecurrentDropout(Noisy):
    r"""Recurrent dropout: while training, a mask zeroes the same units of a state before every step of a sequence.

    >>> from cellwright.cells import GRU
    >>> cell = RecurrentDropout(GRU(3, 5), 0.5)
    >>> cell(torch.zeros(2, 3), torch.ones(2, 5)).shape
    torch.Size([2, 5])

    .. math:: s_t = \text{cell}(x_t, m \odot s_{t-1}), \quad m \sim \text{Bernoulli}(1 - p) / (1 - p)

    Args:
        cell: the cell.
        share: p, for the first state (default 0.25), or by the states' names.
        held: whether a sequence keeps its mask through time (default), or every step draws its own.

    Source: Gal and Ghahramani (2016), arXiv 1512.05287, equation 7, whose masks are held through time; on h
    alone, as there, unless states are named.
    """

    def __init__(self, cell: nn.Module, share: float | Mapping[str, float] = 0.25, held: bool = True) -> None:
        super().__init__(cell, share)
        if not isinstance(share, Mapping):
            self.shares = (self.shares[0],) + (0.0,) * (len(self.state) - 1)
        self.held = held

    def columns(self, given: Feed) -> Feed:
        draw = given.chance_by_sequence if self.held else given.chance_by_step
        shares = zip(self.state_sizes, self.shares, strict=True)
        return given.beside(*(draw(size, share) for size, share in shares if share and self.training))

    def step(self, x: Tensor, *state: Tensor) -> Any:
        x, columns = self.apart(x)
        before = zip(self.masks(columns), self.cell.begin(x, *state), strict=True)
        return self.cell.step(x, *(old if mask is None else mask * old for mask, old in before))
