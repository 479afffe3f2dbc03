"""Graphs: the many launches of a loop, pass by pass, started at once where they come again on the same memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch

MOST = 32  # loops that are known


class Graphs:
    """CUDA graphs of launches, by all that the launches follow from.

    Where PyTorch's allocator gives a training loop the same memory step after step, what comes a second time is
    captured; then one call starts all of it. Where it does not, all is launched as ever.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, torch.cuda.CUDAGraph | None] = {}  # None: launched once

    def run(self, key: Hashable, launch: Callable[[], None]) -> None:
        """Launch, or start the graph of it.

        Args:
            key: all that the launches follow from: sizes, and the addresses that they are given.
            launch: launches kernels on the current stream, and does nothing else.
        """
        if key not in self._known:
            while len(self._known) >= MOST:
                self._known.pop(next(iter(self._known)))
            self._known[key] = None
            launch()
            return
        graph = self._known.pop(key)
        try:
            graph = graph or captured(launch)
        except RuntimeError:  # as when another thread captures, or synchronises, meanwhile: what is wrong shows again
            launch()
            return
        self._known[key] = graph  # the last to go
        graph.replay()


def can_capture(device: torch.device) -> bool:
    """Whether launches on a device can be captured: not while somebody else captures them."""
    return device.type == "cuda" and not torch.cuda.is_current_stream_capturing()


def captured(launch: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """The graph of launches, none of which runs yet. Unlike torch.cuda.graph it leaves the allocator's memory alone."""
    beside: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    graph, now = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    torch.cuda.synchronize()
    beside.wait_stream(now)
    with torch.cuda.stream(beside):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            launch()
        finally:
            graph.capture_end()
    now.wait_stream(beside)
    return graph
