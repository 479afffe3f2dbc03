"""What the benchmarks count, compare and write: the parts that need no quiet machine."""

import argparse
import importlib
import math
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    """Imports a script as the scripts import each other."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_products_are_counted_as_in_the_formulas(bench):
    common = bench("common")
    T, B, I, H, G = 7, 3, 5, 4, 2
    size = common.Shape(T, B, I, H)
    step = 2 * B * G * H  # a product of one column, for all gates
    forward = T * step * (H + I)
    assert common.flops(G, size, train=False) == forward
    assert common.flops(G, size, train=True) == forward + T * step * H + forward
    assert common.flops(G, size, train=True, dx=True) == forward + T * step * H + forward + T * step * I


def test_a_shape_is_four_whole_numbers(bench):
    common = bench("common")
    assert common.shape("35,32,28,256") == common.Shape(35, 32, 28, 256)
    assert str(common.shape("1,2,3,4")) == "1,2,3,4"
    for wrong in ("35,32,28", "35,32,28,x", "35,32,28,0", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="T,B,I,H"):
            common.shape(wrong)


@pytest.mark.parametrize("rival", [[1.0, 2.1], [1.0, math.nan], [1.0], [[1.0, 2.0]]])
def test_numbers_that_do_not_agree_end_the_benchmark(bench, rival):
    with pytest.raises(SystemExit, match="NOT THE SAME: outputs"):
        bench("common").agree("outputs", torch.tensor([1.0, 2.0]), torch.tensor(rival), 1e-3)


def test_a_difference_is_a_share_of_the_largest_value(bench):
    assert bench("common").agree("outputs", torch.tensor([0.5, 8.0]), torch.tensor([0.0, 8.0]), 0.1) == 1 / 16


def test_a_round_is_rival_ours_rival_and_gives_one_ratio(bench, monkeypatch):
    common = bench("common")
    order = []
    seconds = {"rival": iter([9, 9, 1, 3, 2, 6]), "ours": iter([9, 9, 1, 2])}  # two are for warming up

    def sample(work, calls):
        order.append(work)
        return next(seconds[work])

    monkeypatch.setattr(common, "sample", sample)
    times = common.compare("rival", "ours", rounds=2)
    assert order[4:] == ["rival", "ours", "rival"] * 2
    assert times.ratio == (2, 2, 2)
    assert times.rival.median == 2.5
    assert times.ours.median == 1.5


def test_a_table_replaces_only_what_stands_between_its_marks(bench):
    run = bench("run")
    page = "head\n{}\nold\n{}\ntail".format(*(run.MARK.format(which, "x") for which in ("begin", "end")))
    once = run.put(page, "x", "new")
    assert "old" not in once
    assert once.startswith("head\n")
    assert once.endswith("\ntail")
    assert run.put(once, "x", "old") == page
    with pytest.raises(SystemExit, match="begin: y"):
        run.put(page, "y", "new")


def test_the_page_has_a_place_for_every_script(bench):
    run = bench("run")
    page = run.PAGE.read_text(encoding="utf-8")
    for name in ("machine", *run.SCRIPTS):
        page = run.put(page, name, "new")
        assert name == "machine" or (FOLDER / f"{name}.py").exists()


@pytest.mark.parametrize("name", ["lstm", "gru-reset-before"])
def test_the_loop_by_hand_computes_what_the_formulas_say(bench, name):
    cells = bench("cells")
    module = cells.WRITTEN[name](3, 5)
    x, state = torch.randn(7, 2, 3), cells.zeros(module, 2)
    torch.testing.assert_close(module.by_hand(x, state), cells.loop(module, x, state))
