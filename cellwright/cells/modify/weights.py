"""Recurrent weights that are dropped, normed or cut into heads: what happens to a weight before any step reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from cellwright.cells.cell import Cell
from cellwright.cells.feed import Feed, draw_mask
from cellwright.cells.heads import split_in_heads
from cellwright.cells.modify.modified import Modified, checked_share
from cellwright.errors import CellError


class Reparametrized(Modified):
    """A modifier that puts something between the recurrent weights of a cell and its equations."""

    def __init__(self, cell: nn.Module, weights: Sequence[str] | None = None) -> None:
        super().__init__(cell)
        found = [(part, name) for part, name in _named(self.cell) if _wanted(part, name, weights)]
        if not found:
            known = ", ".join(sorted({name for _, name in _named(self.cell)}))
            raise CellError(
                "recurrent weights are found by their role, or by their names",
                f"weights={weights!r} for a cell with {known}",
                "write weights=['weight_hh'], say, with names of matrices of that cell",
            )
        for part, name in found:
            self.reparametrize(part, name)

    def reparametrize(self, part: nn.Module, name: str) -> None:
        """Put it there."""
        raise NotImplementedError

    def step(self, x: Tensor, *state: Tensor) -> Any:
        return self.cell.step(x, *state)


def _named(cell: Cell) -> Iterator[tuple[nn.Module, str]]:
    """Every matrix of a cell: its module and its name there, reparametrized or not."""
    for part in cell.modules():
        if isinstance(part, (parametrize.ParametrizationList, Drop)):
            continue
        names = [*part._parameters, *(part.parametrizations if parametrize.is_parametrized(part) else ())]  # type: ignore[misc]
        for name in names:
            weight = getattr(part, str(name))
            if isinstance(weight, Tensor) and weight.dim() == 2:
                yield part, str(name)


def _wanted(part: nn.Module, name: str, weights: Sequence[str] | None) -> bool:
    if weights is not None:
        return name in weights
    if isinstance(part, Cell) and name in part.roles:
        return part.roles[name][1] == "recurrent weight"
    return "weight_hh" in name


class Drop(nn.Module):
    """A weight times a mask that every call draws anew."""

    mask: Tensor

    def __init__(self, weight: Tensor, share: float) -> None:
        super().__init__()
        self.share = share
        self.register_buffer("mask", torch.ones_like(weight), persistent=False)

    def draw(self) -> None:
        """Another mask, in a tensor of its own: a backward that is still to come needs the one before."""
        self.mask = draw_mask(tuple(self.mask.shape), self.share, self.mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask if self.training else weight


class WeightDrop(Reparametrized):
    r"""Weight drop (DropConnect): while training, every call zeroes a share of the recurrent weights.

    >>> from cellwright.cells import LSTM
    >>> cell = WeightDrop(LSTM(3, 5), 0.5)
    >>> cell(torch.zeros(2, 3), torch.ones(2, 5), torch.zeros(2, 5))[0].shape
    torch.Size([2, 5])

    .. math:: W' = W \odot m, \quad m \sim \text{Bernoulli}(1 - p) / (1 - p)

    Args:
        cell: the cell, whose recurrent weights become `parametrizations.{name}.original` (torch.nn.utils.parametrize).
        share: p, at least 0 and below 1 (default 0.5).
        weights: the names of those weights (default: by their role, or called weight_hh).

    Source: Merity, Keskar and Socher (2017), arXiv 1708.02182, section 2: one mask for a whole sequence and batch.

    Raises:
        CellError: the cell has no such weights.
    """

    def __init__(self, cell: nn.Module, share: float = 0.5, weights: Sequence[str] | None = None) -> None:
        self.__dict__["share"] = checked_share("share", share)
        super().__init__(cell, weights)

    def reparametrize(self, part: nn.Module, name: str) -> None:
        parametrize.register_parametrization(part, name, Drop(getattr(part, name).detach(), self.__dict__["share"]))

    def columns(self, given: Feed) -> Feed:
        if self.training:
            for part in self.cell.modules():
                if isinstance(part, Drop):
                    part.draw()
        return given


class Heads(Reparametrized):
    """Recurrence in heads: the recurrent matrices are blocks on their diagonals, and heads do not see each other.

    >>> from cellwright.cells import LSTM
    >>> cell = Heads(LSTM(3, 6), heads=2)
    >>> sum(p.numel() for n, p in cell.named_parameters() if "W_h" in n)   # 4 gates, 2 heads of 3 x 3
    72

    Args:
        cell: a cell whose equations say `h @ W`; its recurrent weights become `parametrizations.{name}.original`
            (heads, H/heads, H/heads), what stood in their diagonal blocks.
        heads: how many; the hidden size is a multiple of it.
        weights: the names of those weights (default: by their role).

    Source: as in Beck et al. (2024), arXiv 2405.04517, and Poeppel et al. (2024), arXiv 2412.07752.

    Raises:
        CellError: the cell has no such weights, or they cannot be cut into so many blocks.
    """

    def __init__(self, cell: nn.Module, heads: int, weights: Sequence[str] | None = None) -> None:
        self.__dict__["heads"] = heads
        super().__init__(cell, weights)

    def reparametrize(self, part: nn.Module, name: str) -> None:
        split_in_heads(part, name, self.__dict__["heads"])


class WeightNorm(Reparametrized):
    r"""Weight norm: every unit's recurrent weights are a length that is learned times a direction that is learned.

    >>> from cellwright.cells import GRU
    >>> cell = WeightNorm(GRU(3, 5))
    >>> cell(torch.zeros(2, 3), torch.ones(2, 5)).shape
    torch.Size([2, 5])

    .. math:: w = g\, v / \lVert v \rVert

    Args:
        cell: the cell, whose recurrent weights become g and v, `parametrizations.{name}.original0` and `.original1`.
        weights: the names of those weights (default: by their role, or called weight_hh).

    Source: Salimans and Kingma (2016), arXiv 1602.07868, equation 2; one g for each unit that is computed.

    Raises:
        CellError: the cell has no such weights.
    """

    def reparametrize(self, part: nn.Module, name: str) -> None:
        units = 1 if isinstance(part, Cell) and name in part.roles else 0  # x @ W here, x @ W.T in torch.nn
        parametrizations.weight_norm(part, name, dim=units)
