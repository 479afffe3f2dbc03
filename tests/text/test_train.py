"""A training from text to run directory, stopped and resumed, bit for bit the same."""

import json
import math
import signal

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from cellwright.errors import CellError, DivergedError, RunError, SettingError
from cellwright.text.checkpoint import load_checkpoint
from cellwright.text.corpus import load_corpus
from cellwright.text.job import Job
from cellwright.text.model import LanguageModel
from cellwright.text.optimise import SCHEDULES
from cellwright.text.run import Run
from tests.text.helpers import ALONE, go_on, metrics, quiet, small_job, small_settings, without_time

KINDS = [
    {},
    {"cell": "gru-reset-before", "embedding_size": 0, "batches": "random", "num_layers": 2, "held_dropout": True},
    {"cell": "rnn", "optimizer": "sgd", "schedule": "constant", "average": 0.0, "dropout": 0.0, "learning_rate": 0.5},
    {
        "tokens": "word",
        "tied": True,
        "embedding_size": 16,
        "input_dropout": 0.2,
        "schedule": "cosine",
        "max_tokens": 2500,
    },
    {"tokens": "bpe", "vocabulary_size": 300, "cleaning": "none", "init": "tutorial", "validation": 0.0},
]


@pytest.mark.parametrize("kind", KINDS, ids=[" ".join(kind) or "default" for kind in KINDS])
def test_stopped_and_resumed_is_the_same_to_the_byte(kind, tmp_path):
    small_job(tmp_path / "whole", **kind).train()
    assert small_job(tmp_path / "parts", **kind).train(stop_after=1).reason == "stopped"
    torch.manual_seed(99)  # what the random generators are in between does not matter
    assert go_on(tmp_path / "parts").train().reason == "finished"
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    assert without_time(metrics(whole)) == without_time(metrics(parts))
    tensors = [load_checkpoint(run / "last.safetensors", "training")[0] for run in (whole, parts)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0] | tensors[1])


@pytest.mark.parametrize("batches", ["sequential", "random"])
def test_stopped_in_the_middle_of_an_epoch_too(batches, tmp_path, monkeypatch):
    small_job(tmp_path / "whole", batches=batches).train()
    job = small_job(tmp_path / "parts", batches=batches)
    monkeypatch.setattr(job, "wants_to_stop", lambda: job.trainer.progress.batch == 7)
    assert job.train().reason == "stopped"
    assert job.trainer.progress.batch == 8
    go_on(tmp_path / "parts").train()
    names = ["model.safetensors"]
    assert [(tmp_path / "whole" / n).read_bytes() for n in names] == [
        (tmp_path / "parts" / n).read_bytes() for n in names
    ]
    assert without_time(metrics(tmp_path / "whole")) == without_time(metrics(tmp_path / "parts"))


def test_a_signal_stops_after_the_step_and_saves(tmp_path, monkeypatch):
    job = small_job(tmp_path / "run")
    monkeypatch.setattr(job, "on_step", lambda trainer: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):  # the second signal, at the second step, leaves at once
        job.train()
    job = small_job(tmp_path / "other")
    monkeypatch.setattr(
        job, "on_step", lambda t: signal.raise_signal(signal.SIGTERM) if t.progress.batch == 3 else None
    )
    assert job.train().reason == "stopped"
    assert load_checkpoint(tmp_path / "other" / "last.safetensors", "training")[1]["batch"] == 4
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_it_learns_and_what_is_kept_is_the_best(tmp_path):
    outcome = small_job(tmp_path / "run", epochs=6, max_tokens=20_000, hidden_size=32).train()
    lines = metrics(tmp_path / "run")
    perplexities = [line["val_perplexity"] for line in lines]
    assert perplexities[-1] < perplexities[0] < 28
    assert outcome.best["val_perplexity"] == min(perplexities)
    keys = ["epoch", "train_perplexity", "val_perplexity", "val_bits_per_character", "tokens_per_second"]
    assert list(lines[0])[:5] == keys
    assert math.log2(perplexities[0]) == pytest.approx(lines[0]["val_bits_per_character"])
    run = Run(tmp_path / "run")
    job = go_on(run.path, epochs=7)
    job.trainer.model.load_state_dict(run.model().state_dict())
    assert job.measure(run.model()).perplexity == pytest.approx(min(perplexities), rel=1e-6)
    assert run.curves.read_bytes().startswith(b"\x89PNG")


def test_patience_ends_it(tmp_path):
    job = small_job(tmp_path / "run", patience=2, epochs=50, learning_rate=1e-12, average=0.0)
    outcome = job.train()
    assert outcome.reason == "patience"
    assert len(metrics(tmp_path / "run")) < 50


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    small_job(tmp_path / "run").train(stop_after=1)
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    job = go_on(tmp_path / "run")
    job.model.output.weight.data[0, 0] = math.inf
    with pytest.raises(DivergedError) as caught:
        job.train()
    assert "gradient norm nan in epoch 2, step 1; train anew with a smaller --learning-rate" in str(caught.value)
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before
    go_on(tmp_path / "run").train()


def test_the_seed_decides_everything(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        small_job(tmp_path / name, seed=seed, epochs=1).train()
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_random_batches_start_from_a_fresh_state(tmp_path):
    job = small_job(tmp_path / "run", batches="random", epochs=1)
    states = []
    job.trainer.network = lambda x, state: (states.append(state), job.model(x, state))[1]
    job.train()
    assert set(states) == {None}


def test_a_changed_text_is_not_gone_on_with(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("once upon a time " * 400)
    small_job(tmp_path / "run", text=(str(text),)).train(stop_after=1)
    text.write_text("once upon a lime " * 400)
    with pytest.raises(RunError, match="a training goes on with the very text it began with"):
        go_on(tmp_path / "run")


def test_more_epochs_may_be_asked_for(tmp_path):
    small_job(tmp_path / "run", epochs=1, schedule="constant").train()
    small_job(tmp_path / "long", epochs=2, schedule="constant").train()
    assert go_on(tmp_path / "run", epochs=2).train().reason == "finished"
    assert without_time(metrics(tmp_path / "run")) == without_time(metrics(tmp_path / "long"))
    assert go_on(tmp_path / "run", epochs=4).train(stop_after=3).reason == "stopped"
    assert go_on(tmp_path / "run").train().reason == "finished"  # the run remembers that there are four
    assert len(metrics(tmp_path / "run")) == 4
    for epochs in (0, 3):
        with pytest.raises(RunError, match=r"got 4 epochs done of .* write --epochs 5 or more"):
            go_on(tmp_path / "run", epochs=epochs)


def test_events_for_tensorboard(tmp_path):
    settings = small_settings(epochs=1)
    corpus = load_corpus(settings.data)
    run = Run(tmp_path)
    Job(run, settings, corpus, ALONE, quiet(), SummaryWriter(str(tmp_path / "tensorboard"))).train()
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_long_texts_are_read_in_chunks_into_one_small_array(tmp_path, monkeypatch):
    monkeypatch.setattr("cellwright.text.reading.CHUNK_BYTES", 1000)
    text = tmp_path / "text.txt"
    text.write_text("The Time Machine! " * 5000)
    corpus = load_corpus(small_settings(text=(str(text),), max_tokens=0).data)
    assert isinstance(corpus.train, np.memmap)
    assert corpus.train.dtype == np.uint8
    assert corpus.vocabulary.decode(corpus.train[:17]) == "the time machine "
    assert len(corpus.train) + len(corpus.validation) == 17 * 5000
    assert list(tmp_path.iterdir()) == [text]


def test_one_cycle_rises_and_falls():
    rates = [SCHEDULES["one-cycle"](done / 100) for done in range(101)]
    assert max(rates) == rates[30] == 1
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[100] == pytest.approx(1e-4)


def test_tied_weights_are_one_parameter():
    model = LanguageModel(small_settings(tied=True, embedding_size=16).model, 28)
    assert model.embed.weight is model.output.weight


WRONG_CELLS = {
    "needs = 3": (
        "__init__(self, i, h, extra): super().__init__(i, h)",
        "missing 1 required positional argument: 'extra'",
    ),
    "raises": ("step(self, x, h): return x @ h", "RuntimeError from"),
    "too much": ("step(self, x, h): return h, h, h", "got a tensor, a tensor, a tensor from Mine.step"),
    "nothing": ("nothing(self): pass", "a cell needs a method step"),
    "unused": (
        "__init__(self, i, h): super().__init__(i, h); self.add_gates(); self.add_bias('idle', 'h', 'bias')\n"
        "    def step(self, x, h): return torch.tanh(x @ self.W_xh + h @ self.W_hh + self.b_h)",
        "got recurrent.cells.0.idle unused; remove it, or use it",
    ),
}


@pytest.mark.parametrize("name", WRONG_CELLS)
def test_a_cell_that_does_not_run_is_refused_before_anything_is_written(name, tmp_path):
    body, words = WRONG_CELLS[name]
    file = tmp_path / "mine.py"
    head = "import torch\nfrom cellwright.cells import Cell\nclass Mine(Cell):\n    gates = {'h': 'hidden state'}\n"
    file.write_text(f"{head}    def {body}\n")
    with pytest.raises(CellError) as caught:
        small_job(tmp_path / "run", cell=f"{file}:Mine")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [file]


def test_a_cell_in_a_file_runs_only_when_named(tmp_path):
    file = tmp_path / "mine.py"
    step = "def step(self, x, h, c):\n        return super().step(x, h, c)"
    file.write_text(f"from cellwright.cells import LSTM\nclass Mine(LSTM):\n    {step}\n")
    name = f"{file}:Mine"
    small_job(tmp_path / "run", cell=name, epochs=1).train()
    with pytest.raises(RunError, match="a cell in a file is code, which runs only if you name it yourself"):
        Run(tmp_path / "run").model()
    assert Run(tmp_path / "run").model(cell=name)
    with pytest.raises(RunError, match="a run keeps its cell; got --cell gru"):
        Run(tmp_path / "run").model(cell="gru")
    moved = file.rename(tmp_path / "renamed.py")
    assert Run(tmp_path / "run").model(cell=f"{moved}:Mine")
    with pytest.raises(SettingError, match="bidirectional"):
        small_settings(bidirectional=True)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["version"] == 1
