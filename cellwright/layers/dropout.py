"""Dropout over sequences: new for every step, or one mask held through time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

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


def draw_mask(shape: tuple[int, ...], share: float, like: Tensor) -> Tensor:
    """Zeros with probability `share`, else 1 / (1 - share), of the type and device of `like`.

    Four 16-bit numbers are cut from every random 64-bit word and compared with a threshold: ten times as
    fast on a CPU as drawing each entry by itself. The share is rounded to a multiple of 1/65536.
    """
    level = min(max(round((1 - share) * 65536), 1), 65535)
    if torch.compiler.is_compiling():  # which knows no random_, and makes one loop of this
        return (torch.rand(shape, device=like.device) < level / 65536).to(like.dtype) * (65536 / level)
    count = math.prod(shape)
    words = torch.empty((count + 3) // 4, dtype=torch.int64, device=like.device).random_(-(2**63), None)
    kept = words.view(torch.int16)[:count].view(shape) < level - 32768
    return kept.to(like.dtype).mul_(65536 / level)
