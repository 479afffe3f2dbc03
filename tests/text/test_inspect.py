"""cellwright inspect: pictures and a page for a run, on its own text or another."""

import json
import re

import pytest

from cellwright.cli import main
from tests.text.helpers import small_job


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of an LSTM and one of an RNN, as they were after an epoch."""
    path = tmp_path_factory.mktemp("runs")
    for cell in ("lstm", "rnn"):
        small_job(path / cell, cell=cell, epochs=1, max_tokens=1500, num_layers=2 if cell == "lstm" else 1).train()
    return path


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def test_a_page_shows_every_picture_there_is(runs, tmp_path, capsys):
    status, out, err = call(capsys, "inspect", runs / "lstm", "--out", tmp_path / "seen")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1].endswith("index.html")
    assert "layer 1, forward: erase" in out
    page = (tmp_path / "seen" / "index.html").read_text(encoding="utf-8")
    pictures = set(re.findall(r'<img src="([^"]*)"', page))
    assert pictures == {path.name for path in (tmp_path / "seen").iterdir()} - {"index.html"}
    assert {"cell.svg", "gradients.png", "behaviour.png", "f-0.png", "c-1.png", "places-1.png"} <= pictures
    assert "At 1 a unit keeps what it holds" in page


def test_another_text_and_numbers_as_json(runs, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("a few words of some text to look at, and again. " * 8)
    status, out, err = call(capsys, "inspect", runs / "rnn", text, "--out", tmp_path / "seen", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["text"] == str(text)
    assert found["behaviour"] == []
    assert "no regimes: what a unit does is read from an input gate" in err
    assert 0 < found["gradient_rate"]["trained"] < 2
    assert {one["what"] for one in found["tracked"]} >= {"a blank", "a vowel"}


def test_mistakes_are_one_line(runs, tmp_path, capsys):
    (tmp_path / "short.txt").write_text("too short")
    status, _, err = call(capsys, "inspect", runs / "rnn", tmp_path / "short.txt", "--out", tmp_path / "seen")
    assert status == 2
    assert err == "cellwright: a text to look at has at least 100 tokens; got 9; name a longer one\n"
    assert not (tmp_path / "seen").exists()
    assert call(capsys, "inspect", tmp_path)[0] == 2
