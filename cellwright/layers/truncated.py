"""Truncated: backpropagation through time in chunks, the state carried from each to the next without its gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from cellwright.errors import SettingError


def truncated(layer: nn.Module, x: Tensor, steps: int, state: Any = None) -> Iterator[tuple[Tensor, slice, Any]]:
    """Run a layer over a long sequence, chunk by chunk.

    >>> import torch
    >>> from cellwright.layers import LSTM
    >>> layer, x = LSTM(3, 5), torch.randn(100, 2, 3)
    >>> for y, part, state in truncated(layer, x, steps=35):
    ...     y.square().mean().backward()       # reaches back to the beginning of this chunk
    >>> part
    slice(70, 100, None)

    Args:
        layer: a layer (y, state) = layer(x, state): ours, or torch.nn's.
        x: (T, B, I); (B, T, I) where the layer is batch_first.
        steps: of every chunk but the last.
        state: before the first step (default: the layer's own).

    Yields:
        y of a chunk, which steps of x it is, and the state after it, detached.

    Source: Williams and Peng (1990), Neural Computation 2(4).
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise SettingError("a chunk has a whole number of steps, at least 1", f"steps={steps!r}", "write steps=35, say")
    time = 1 if getattr(layer, "batch_first", False) and x.dim() == 3 else 0
    total = x.shape[time]
    for start in range(0, total, steps):
        stop = min(start + steps, total)
        y, state = layer(x.narrow(time, start, stop - start), state)
        state = detached(state)
        yield y, slice(start, stop), state


def detached(state: Any) -> Any:
    """A state, of whatever tuples, without the graph that it comes from.

    >>> import torch
    >>> h = torch.ones(1, 2, 3, requires_grad=True) * 2
    >>> detached((h, h))[0].requires_grad
    False
    """
    if isinstance(state, Tensor):
        return state.detach()
    return None if state is None else tuple(detached(one) for one in state)
