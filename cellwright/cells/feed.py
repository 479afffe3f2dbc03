"""Feed: what a cell reads over a whole call: its input, and columns of chance or of resets that it asked for."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Feed(NamedTuple):
    """The rows that a call gives to the steps of a cell."""

    x: Tensor
    """(T, B, I), or packed (N, I)."""
    number: Tensor | None = None
    """Of packed rows (N,), the number of their sequence."""
    resets: Tensor | None = None
    """Of packed rows (N,), not 0 where a sequence begins anew."""

    def beside(self, *columns: Tensor) -> Feed:
        """With more columns to the right of x."""
        return self._replace(x=torch.cat([self.x, *columns], dim=-1))

    def chance_by_step(self, width: int, share: float) -> Tensor:
        """A mask of `width` columns, another one at every step: see `draw_mask`."""
        return draw_mask((*self.x.shape[:-1], width), share, self.x)

    def chance_by_sequence(self, width: int, share: float) -> Tensor:
        """A mask of `width` columns that every sequence keeps through all steps."""
        if self.number is None:
            T, B = self.x.shape[:2]
            return draw_mask((1, B, width), share, self.x).expand(T, B, width)
        rows = draw_mask((int(self.number.max()) + 1, width), share, self.x)
        return rows.index_select(0, self.number.to(rows.device))


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
