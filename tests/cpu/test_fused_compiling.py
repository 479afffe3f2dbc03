"""What is compiled, packed and kept when: once for a cell, for all steps and rows, and for the next process."""

import subprocess
import sys
import warnings

import pytest
import torch

import cellwright as cw
from cellwright.cells import GRU, LIBRARY, LSTM
from cellwright.errors import BackendError
from cellwright.kernels import fuse
from cellwright.kernels.c import build, run
from tests.cpu.layers import same, small
from tests.oracle import CORE, flat


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """An empty cache; counts of captures, of libraries asked for, and of calls of the compiler."""
    monkeypatch.setenv("CELLWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CELLWRIGHT_CFLAGS", "-O1")
    monkeypatch.setattr(build, "_loaded", {})
    counts = {"capture": 0, "load": 0, "compile_library": 0}

    def count(module, name):
        wrapped = getattr(module, name)

        def counting(*args):
            counts[name] += 1
            return wrapped(*args)

        monkeypatch.setattr(module, name, counting)

    count(fuse, "capture")
    count(run, "load")
    count(build, "compile_library")
    return counts


def test_nothing_is_compiled_after_the_first_call(counted):
    layer = cw.Recurrent(LSTM(3, 5), backend="c")
    layer(torch.randn(4, 2, 3))
    first = dict(counted)
    assert first["capture"] == 1
    for steps, batch in [(1, 1), (9, 2), (4, 40), (100, 3)]:
        y, _ = layer(torch.randn(steps, batch, 3))
        y.sum().backward()
        with torch.no_grad():
            layer(torch.randn(steps, batch, 3))
    assert counted == first


def test_the_gradient_of_x_takes_one_more_library_and_no_capture(counted):
    layer = cw.Recurrent(LSTM(3, 5), backend="c")
    layer(torch.randn(4, 2, 3))
    first = dict(counted)
    for _ in range(2):
        layer(torch.randn(4, 2, 3, requires_grad=True))[0].sum().backward()
    assert counted["capture"] == first["capture"] == 1
    assert counted["compile_library"] <= first["compile_library"] + 1


def test_equal_cells_share_their_library(counted):
    for _ in range(3):
        cw.Recurrent(GRU(3, 5), num_layers=1, backend="c")(torch.randn(4, 2, 3))
    once = counted["compile_library"]
    cw.Recurrent(GRU(3, 5), bidirectional=True, backend="c")(torch.randn(4, 2, 3))
    assert counted["compile_library"] == once


def test_what_is_refused_is_traced_only_once(counted):
    class Mixed(GRU):
        def step(self, x, h):
            return super().step(x, h - h.mean(0))

    layer = cw.Recurrent(Mixed(3, 5))
    for _ in range(3):
        layer(torch.randn(4, 2, 3))
    assert counted["capture"] == 1
    assert counted["compile_library"] == 0


PROGRAM = """
import sys, torch
import cellwright as cw
from cellwright.kernels.c import build
def refuse(*args): raise AssertionError("compiled")
if sys.argv[1] == "again": build.compile_library = refuse
torch.manual_seed(0)
layer = cw.Recurrent(cw.cells.GRU(3, 5), backend="c")
y, _ = layer(torch.randn(4, 2, 3))
y.sum().backward()
torch.save([y.detach(), *(p.grad for p in layer.parameters())], sys.argv[2])
"""


def test_a_second_process_finds_all_in_the_cache_and_computes_the_same_bits(monkeypatch, tmp_path):
    monkeypatch.setenv("CELLWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CELLWRIGHT_CFLAGS", "-O1")
    found = []
    for which in ("first", "again"):
        subprocess.run([sys.executable, "-c", PROGRAM, which, str(tmp_path / which)], check=True, timeout=120)
        found.append(torch.load(tmp_path / which))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", CORE)
def test_without_gradients_the_numbers_are_the_same_and_nothing_is_kept(name, guard, monkeypatch):
    kept = []
    forward = run.Fused.forward

    def watch(self, x, states, leaves, keep, *rest):
        y, last, saved = forward(self, x, states, leaves, keep, *rest)
        kept.append((keep, saved.layout.counts))
        return y, last, saved

    monkeypatch.setattr(run.Fused, "forward", watch)
    layer = cw.Recurrent(LIBRARY[name](2, 7).double(), backend="c")
    batch = 6 * torch.get_num_threads()  # so that rows are split
    x = torch.randn(50, batch, 2, dtype=torch.float64)
    wanted = layer(x)
    with guard():
        found = layer(x)
    same([one.clone() for one in flat(found)], wanted, atol=0)
    assert [keep for keep, _ in kept] == [True, False]
    assert not any(one.requires_grad for one in flat(found))
    most = 4 * 7 * 2 * batch  # numbers: of two steps (2, B, H), or of one with the columns of four gates; not of all 50
    assert all(count <= most for name, count in kept[1][1].items() if name not in ("scratch", "reductions"))
    assert any(count > most for count in kept[0][1].values())


def test_without_gradients_weights_are_packed_again_only_after_they_changed():
    layer, _, x = small()
    with torch.no_grad():
        wanted = layer(x)[0]
        (choice,) = layer.choices()
        (packed,) = choice.entry.fused.weights._spare[False, False]
        packed.memory.zero_()  # which nothing sees: no weight has changed
        assert not torch.allclose(layer(x)[0], wanted)
        layer.first_cell.W_hi.mul_(2).div_(2)
        assert not torch.allclose(layer(x)[0], wanted)
        layer.first_cell.W_hi.data[0, 0].add_(1)
        layer(x)
        layer.first_cell.W_hi.data[0, 0].sub_(1)
        torch.testing.assert_close(layer(x)[0], wanted)


@pytest.fixture
def no_compiler(monkeypatch):
    choosing = sys.modules["cellwright.kernels.choose"]  # its package shows the function of that name
    monkeypatch.setattr(choosing, "find_compiler", lambda: None)
    monkeypatch.setattr(choosing, "_warned", False)


def test_without_a_compiler_cells_run_and_one_warning_says_what_to_install(no_compiler):
    cells = [GRU(3, 5, reset_after=False), LSTM(3, 5)]
    x = torch.randn(4, 2, 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for cell in cells:
            layer = cw.Recurrent(cell)
            for _ in range(2):
                found = layer(x)
            same([one.detach() for one in flat(found)], flat(cw.Recurrent([cell], backend="eager")(x)), atol=1e-5)
            assert "no C compiler was found" in layer.explain()
    assert len(caught) == 1
    assert 'pip install "cellwright[compiler]"' in str(caught[0].message)


def test_without_a_compiler_the_backend_c_says_so(no_compiler):
    with pytest.raises(BackendError, match="no C compiler was found"):
        cw.Recurrent(LSTM(3, 5), backend="c")
