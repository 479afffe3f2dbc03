"""The command `compare`: on memory tasks, and of models of equal size trained for an equal time."""

import json
import sys

import pytest

from cellwright.cells import LIBRARY
from cellwright.errors import SettingError
from cellwright.text.compare import each_once, fit
from cellwright.text.model import LanguageModel, count_parameters
from tests.text.helpers import metrics, small_flags, small_job, small_settings

TINY = ["--updates", 20, "--hidden-size", 4, "--backend", "torch", "--seeds", 2]
PNG = b"\x89PNG"


def test_a_memory_task_gives_a_table_files_and_a_picture(call, tmp_path):
    out = tmp_path / "c"
    flags = ["--task", "parity", "--lengths", 2, 3, "rnn", "lstm", *TINY, "--out", out]
    status, said, err = call("compare", *flags)
    assert (status, err) == (0, "")
    assert "task: parity; Hochreiter and Schmidhuber (1996)" in said
    assert "lstm, length 3, seed 1: " in said
    assert all(word in said for word in ("solved", "updates", " of 2", "weights"))
    rows = json.loads((out / "comparison.json").read_text())
    assert [(row["cell"], row["length"]) for row in rows] == [("rnn", 2), ("lstm", 2), ("rnn", 3), ("lstm", 3)]
    found = json.loads((out / "trials.json").read_text())
    assert len(found) == 8
    assert {trial["seed"] for trial in found} == {0, 1}
    assert (out / "comparison.png").read_bytes().startswith(PNG)


def test_lengths_with_commas_and_results_as_json(call, tmp_path):
    flags = ["rnn", "--task", "copy", "--lengths", "1,2", *TINY, "--updates", 2, "--seed", 5, "--out", tmp_path / "c"]
    status, said, err = call("compare", *flags, "--json")
    assert status == 0
    value = json.loads(said)
    assert value["directory"] == str(tmp_path / "c")
    assert [row["length"] for row in value["cells"]] == [1, 2]
    assert "rnn, length 2, seed 6: not solved" in err


WRONG = [
    (["--task", "sums"], "a task is one of adding, copy, order, reber, parity; got 'sums'; write one of those names"),
    (["--task", "reber", "--lengths", "9", "8"], "lengths of the task reber are at least 9; got 8"),
    (["--task", "copy", "--lengths", "5", "5"], "lengths are whole numbers above 0, each once; got '5,5'"),
    (["--task", "copy", "--lengths", "-5"], "lengths are whole numbers above 0, each once; got '-5'"),
    (["--task", "copy", "--epochs", "5"], "of the settings, --task takes --hidden-size, --batch-size, --learning-rate"),
    (["--task", "copy", "--preset", "d2l"], "--seed; got --preset; leave them out"),
    (["--task", "copy", "--forget-bias", "big"], "forget_bias is a number, or 'chrono', or None; got 'big'"),
    (["--task", "copy", "--parameters", "5"], "memory tasks run in one process on the CPU"),
    (["--task", "copy", "--hidden-size", "0"], "hidden_size is above 0; got 0; write a positive number"),
    (["rnn", "--task", "copy"], "compare takes each cell once; got rnn, rnn"),
    (["--lengths", "5"], "--lengths is for memory tasks; got a comparison on texts; add --task adding, say"),
    (["--seeds", "5", "--updates", "7"], "--seeds, --updates are for memory tasks"),
    (["--text", "python-docs", "--parameters", "5"], "one unit has 1,914 parameters; got parameters=5; write a larger"),
    (["--seconds", "-1"], "seconds is at least 0; got -1.0"),
]


@pytest.mark.parametrize(("flags", "words"), WRONG, ids=[" ".join(flags) for flags, _ in WRONG])
def test_what_is_wrong_is_one_line_and_status_2(flags, words, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = call("compare", "rnn", *flags)
    assert (status, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_exists_is_not_overwritten(call, tmp_path):
    (tmp_path / "file").write_text("mine")
    status, _, err = call("compare", "rnn", "--task", "copy", *TINY, "--out", tmp_path)
    assert status == 2
    assert "a new run needs a directory of its own" in err


def test_all_stands_for_the_library():
    assert each_once(["all"]) == list(LIBRARY)
    assert each_once(["lstm", "rnn"]) == ["lstm", "rnn"]
    with pytest.raises(SettingError, match="compare takes each cell once; got all, rnn"):
        each_once(["all", "rnn", "rnn"])


@pytest.mark.parametrize("changes", [{}, {"tied": True, "embedding_size": 16}, {"num_layers": 2}])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_hidden_sizes_use_up_the_parameters_that_are_given(cell, changes):
    def count(units):
        width = units if settings.model.tied else settings.model.embedding_size
        model = settings.replace(hidden_size=units, embedding_size=width).model
        return count_parameters(LanguageModel(model, 28))

    settings = small_settings(cell=cell, **changes)
    for limit in (10_000, 100_000):
        units = fit(settings, 28, limit).model.hidden_size
        assert count(units) <= limit < count(units + 1)
    units = fit(settings, 28, count(7)).model.hidden_size
    assert units == 7


class Clock:
    """A clock by which every training step takes a hundredth of a second."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        self.now += 0.01
        return self.now

    def monotonic(self):
        return self.now


def test_models_of_one_size_trained_for_one_time(call, tmp_path, monkeypatch):
    monkeypatch.setattr("cellwright.text.train.time", Clock())
    out = tmp_path / "c"
    flags = [*small_flags(epochs=1, backend="torch"), "--parameters", 4000, "--seconds", 0.3, "--out", out]
    status, said, err = call("compare", "rnn", "lstm", "--text", "python-docs", *flags)
    assert (status, err) == (0, "")
    assert "/1  train" not in said, "epochs are not what is counted"
    rows = json.loads((out / "comparison.json").read_text())
    assert all(3800 < row["parameters"] <= 4000 for row in rows)
    assert rows[0]["hidden_size"] > rows[1]["hidden_size"]
    for row in rows:
        assert row["reason"] == "finished"
        last = metrics(out / row["cell"])[-1]
        assert last["seconds"] == pytest.approx(0.3, abs=0.011)
        assert last["learning_rate"] < 0.01 / 10, "the schedule is laid over the seconds"
    assert (out / "ranking.png").read_bytes().startswith(PNG)


def test_seconds_end_a_training_in_the_middle_of_an_epoch_which_is_measured(tmp_path):
    job = small_job(tmp_path / "run", seconds=0.001, epochs=5, max_tokens=20_000, backend="torch")
    outcome = job.train()
    assert outcome.reason == "finished"
    assert outcome.best["epoch"] == 1
    [measured] = metrics(tmp_path / "run")
    assert measured["tokens_per_second"] == pytest.approx(100 / measured["seconds"]), "one batch of 4 rows, 25 steps"
    assert measured["val_perplexity"] > 1


def test_a_cell_that_diverges_does_not_end_the_comparison(call, tmp_path):
    out = tmp_path / "c"
    flags = [
        *small_flags(epochs=2, backend="torch"),
        "--learning-rate",
        1e30,
        "--clip",
        0,
        "--schedule",
        "constant",
        "--average",
        0,
    ]
    status, said, _ = call("compare", "rnn-relu", "rnn", "--text", "python-docs", *flags, "--out", out)
    assert status == 0
    rows = json.loads((out / "comparison.json").read_text())
    assert [row["cell"] for row in rows] == ["rnn-relu", "rnn"]
    assert rows[0]["reason"] == "diverged"
    assert "rnn-relu: training goes on while loss and gradient are finite numbers" in said


def test_pictures_of_more_cells_than_colours(tmp_path):
    curves = sys.modules["cellwright.text.curves"]
    rows = [
        {"cell": f"cell-{n}", "length": length, "solved": (n + length) % 4 / 3, "loss": 0.1}
        for n in range(12)
        for length in (5, 10)
    ]
    curves.draw_trials(tmp_path / "many.png", rows, {5: 0.2, 10: 0.2}, "many")
    assert (tmp_path / "many.png").read_bytes().startswith(PNG)
