"""track finds the unit that was made to follow; pictures are files, and say what they need."""

import importlib

import pytest
import torch

import cellwright as cw
from cellwright.cells import LSTM, RNN
from cellwright.errors import MissingPackageError, ShapeError
from cellwright.probe import gate_behaviour, gradient_flow, record, shaded, track
from cellwright.probe.pictures import draw_behaviour, draw_flow, draw_gate, draw_places
from cellwright.probe.tracking import PROPERTIES

TEXT = "the time traveller spoke of it"


@pytest.fixture
def recording():
    return record(LSTM(4, 6), torch.randn(len(TEXT), 1, 4))


def test_the_unit_that_follows_a_property_is_found():
    x = torch.randn(len(TEXT), 1, 2)
    x[:, 0, 1] = torch.tensor(PROPERTIES["letters since a blank"](TEXT))
    cell = RNN(2, 5, nonlinearity="relu")
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.W_xh[1, 3], cell.W_xh[0, 2] = 2.0, 1.0  # unit 3 follows it, unit 2 something else
    layer = cw.Recurrent([cell, RNN(5, 5)], num_layers=2)
    found = {one.what: one for one in track(record(layer, x), TEXT)}
    one = found["letters since a blank"]
    assert (one.name, one.unit) == ("h", 3)
    assert one.correlation == pytest.approx(1, abs=1e-5)
    assert str(one) == "letters since a blank: h[3] of layer 0, forward, correlation +1.00"
    assert "a digit" not in found


def test_a_text_is_as_long_as_what_was_recorded(recording):
    with pytest.raises(ShapeError, match="a character for each step; got 3 for 30 steps; pass what x was"):
        track(recording, "abc")


def test_long_texts_are_shaded_line_by_line():
    lines = shaded("ab" * 60, torch.arange(120.0)).splitlines()
    assert [len(line) for line in lines] == [78, 78, 42, 42]
    assert lines[3].endswith("█")


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_pictures_are_files(recording, tmp_path, ending):
    gates = {name: recording[name][:, 0] for name in "if"}
    flow = gradient_flow(RNN(4, 6), torch.randn(9, 2, 4))[0]
    draw_gate(tmp_path / f"f.{ending}", TEXT, gates["f"], "f", "forget gate")
    draw_gate(tmp_path / f"c.{ending}", TEXT, recording["c"][:, 0], "c", "cell state")
    draw_places(tmp_path / f"places.{ending}", TEXT, gates, "means")
    draw_flow(tmp_path / f"flow.{ending}", {"RNN": flow}, "gradients")
    draw_behaviour(tmp_path / f"behaviour.{ending}", gate_behaviour(recording), "what units do")
    starts = {path.stem: path.read_bytes()[:5] for path in tmp_path.iterdir()}
    assert set(starts) == {"f", "c", "places", "flow", "behaviour"}
    assert set(starts.values()) == {b"\x89PNG\r" if ending == "png" else b"<?xml"}


def test_without_matplotlib_they_say_what_to_install(recording, tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(
        MissingPackageError, match=r"need the package matplotlib; .*; pip install \"cellwright\[plot\]\""
    ):
        draw_gate(tmp_path / "f.png", TEXT, recording["f"][:, 0], "f", "forget gate")
