"""Launches that come again on the same memory are started as one graph: here by addresses, in Triton's interpreter."""

import ctypes

import numpy as np
import pytest
import torch

import cellwright as cw

pytest.importorskip("triton")

from cellwright.kernels import choose
from cellwright.kernels.gradients import Leaves
from cellwright.kernels.operator import leaves_of
from cellwright.kernels.triton import graphs, run
from cellwright.program.split import STAGES
from tests.cpu.test_library import drawn

T, B, I, H = 4, 3, 3, 5


class Replayed:
    """What a CUDA graph is: kernels and the addresses that they were given, whatever became of the tensors."""

    def __init__(self, launch):
        self.starts, self.replays = [], 0
        real = run.Launched._start

        def note(launched, stage, tile, **given):
            addresses = {
                name: (one.data_ptr(), one.numel(), one.dtype) if isinstance(one, torch.Tensor) else one
                for name, one in given.items()
            }
            self.starts.append((real, launched, stage, tile, addresses))

        run.Launched._start = note
        try:
            launch()
        finally:
            run.Launched._start = real

    def replay(self):
        self.replays += 1
        for real, launched, stage, tile, given in self.starts:
            arguments = {name: at(*one) if isinstance(one, tuple) else one for name, one in given.items()}
            real(launched, stage, tile, **arguments)


def at(address, count, dtype):
    """A tensor over memory by its address."""
    size = max(count, 1) * dtype.itemsize
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
    return torch.from_numpy(memory).view(dtype)[:count]


@pytest.fixture
def captured(monkeypatch):
    """All graphs, captured as they would be on a GPU."""
    found = []
    monkeypatch.setattr(run, "can_capture", lambda device: True)
    monkeypatch.setattr(graphs, "captured", lambda launch: found.append(Replayed(launch)) or found[-1])
    return found


@pytest.mark.parametrize("name", ["lstm", "gru-reset-before", "nas"])
def test_a_graph_computes_what_its_launches_do(captured, name):
    """On the memory of two runs in turns, with other numbers each time: forward, and backward to the gradient of x."""
    torch.manual_seed(0)
    cell = drawn(name)
    inputs = [torch.randn(T, B, I, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    dy = torch.randn(T, B, H, dtype=torch.float64)
    fused, leaves = choose(cell, "triton", inputs[0]).entry.fused, Leaves(leaves_of(cell))
    nothing = (None,) * len(cell.state)
    with torch.no_grad():
        runs = [fused.forward(x, nothing, leaves, True)[2] for x in inputs]
        for saved in runs:
            fused.backward(saved, dy, nothing, leaves, [False] * len(nothing), [])
    for place in (0, 1, 1, 0, 1, 0):
        x, saved = inputs[place], runs[place]
        with torch.no_grad():
            x.normal_()
            for key, one in saved.memory.items():
                if key.startswith(("at_dstate", "at_dx")):
                    one.zero_()
            for stage in STAGES:
                fused._stage(stage, saved, fused._tiles(saved))
        y, _ = cw.Recurrent(cell, backend="eager")(x)
        (dx,) = torch.autograd.grad(y, x, dy)
        ours = saved.memory["at_y" if fused.program.has_y else "at_state0_new"].view_as(y)
        torch.testing.assert_close(ours, y.detach(), atol=1e-10, rtol=0)
        torch.testing.assert_close(saved.memory["at_dx"], dx, atol=1e-10, rtol=0)
    assert [one.replays for one in captured] == [3] * 4, "for each run a graph forward and one backward"


def test_a_loop_is_launched_then_captured_then_only_started(captured):
    known, events = graphs.Graphs(), []
    for key in ("a", "a", "a", "b", "a"):
        known.run(key, lambda key=key: events.append(key))
    assert events == ["a", "a", "b"]
    assert [one.replays for one in captured] == [3]


def test_what_cannot_be_captured_is_launched(monkeypatch):
    known, events = graphs.Graphs(), []

    def refused(launch):
        raise RuntimeError("another thread captures")

    monkeypatch.setattr(graphs, "captured", refused)
    for _ in range(3):
        known.run("a", lambda: events.append("launched"))
    assert events == ["launched"] * 3


def test_only_so_many_graphs_are_kept():
    known = graphs.Graphs()
    for key in range(2 * graphs.MOST):
        known.run(key, lambda: None)
    assert len(known._known) == graphs.MOST


def test_nothing_is_captured_on_a_cpu():
    assert not graphs.can_capture(torch.device("cpu"))
