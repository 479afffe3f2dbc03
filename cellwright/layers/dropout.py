"""Dropout over sequences: new for every step, or one mask held through time."""

from __future__ import annotations

from torch import Tensor, nn

from cellwright.cells.feed import draw_mask
from cellwright.errors import SettingError


class Dropout(nn.Module):
    """Zero a share of the entries of x (T, B, H) while training, and scale up the rest.

    >>> import torch
    >>> x = torch.ones(4, 1, 6)
    >>> held = Dropout(0.5, held=True)(x)   # the same units at every step
    >>> bool((held == held[0]).all())
    True

    Args:
        share: probability of an entry to be zeroed, 0 to below 1.
        held: draw one mask (1, B, H) for all steps, instead of one for each (default: no).

    Where several processes share a batch, every one draws the mask of the whole batch and cuts out its
    own rows (`rows`), so that they train exactly what one process would.

    Source: Srivastava et al. (2014), JMLR 15; held masks: Gal and Ghahramani (2016), arXiv 1512.05287.
    """

    def __init__(self, share: float = 0.5, held: bool = False) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise SettingError("dropout is a share of at least 0 and below 1", f"{share}", "write 0.5, say, or 0")
        self.share, self.held = share, held
        self.shard, self.shards = 0, 1

    def rows(self, shard: int, shards: int) -> None:
        """Say that x holds part `shard` of a batch that is cut into `shards` equal parts."""
        self.shard, self.shards = shard, shards

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.share == 0:
            return x
        steps, batch, width = x.shape
        mask = draw_mask((1 if self.held else steps, batch * self.shards, width), self.share, x)
        return x * mask[:, self.shard * batch : (self.shard + 1) * batch]

    def packed(self, x: Tensor, number: Tensor) -> Tensor:
        """As `forward`, for packed rows x (N, H) of sequences with these numbers (N,)."""
        if not self.training or self.share == 0:
            return x
        if not self.held:
            return x * draw_mask(tuple(x.shape), self.share, x)
        mask = draw_mask((int(number.max()) + 1, x.shape[1]), self.share, x)
        return x * mask.index_select(0, number.to(x.device))

    def extra_repr(self) -> str:
        return f"{self.share}, held={self.held}"
