"""Large pages are asked for where a tensor is large, for whole pages inside it, and for nothing else."""

import pytest
import torch

import cellwright as cw
from cellwright.cells import RNN
from cellwright.kernels.c import pages


@pytest.fixture
def asked(monkeypatch):
    """Notes what the system is asked."""
    noted = []
    monkeypatch.setattr(pages, "_advise", lambda *one: noted.append(one))
    return noted


def test_large_memory_asks_for_whole_pages_inside_it(asked):
    memory = torch.empty(1 << 20)
    assert pages.large_pages(memory, 1 << 22) is memory
    ((start, size, advice),) = asked
    assert (start % 4096, size % 4096, advice) == (0, 0, 14)
    assert memory.data_ptr() <= start < memory.data_ptr() + 4096
    assert memory.data_ptr() + memory.nbytes - 4096 < start + size <= memory.data_ptr() + memory.nbytes


def test_small_memory_asks_for_nothing(asked):
    pages.large_pages(torch.empty((1 << 20) - 1), 1 << 22)
    pages.large_pages(torch.empty(0), 1)
    assert asked == []


def test_a_run_asks_for_results_that_are_large(asked):
    layer, x = cw.Recurrent(RNN(1, 8), backend="c"), torch.zeros(1 << 15, 32, 1)
    with torch.no_grad():
        layer(x[:9])
        assert asked == []
        layer(x)
    (size,) = [size for _, size, _ in asked]
    assert (len(x) + 1) * 32 * 8 * 4 - 4096 <= size <= len(x) * 32 * 8 * 4 * 1.02


def test_where_a_system_has_no_such_advice_nothing_happens(monkeypatch):
    monkeypatch.setattr(pages.sys, "platform", "darwin")
    monkeypatch.setattr(pages, "_advise", pages._find())
    assert pages._advise is None
    assert pages.large_pages(torch.empty(8), 1).numel() == 8
