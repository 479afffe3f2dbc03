"""The parts of a training step, each seen at work."""

import io
import itertools
import math
import stat

import pytest
import torch
from rich.console import Console
from torch import nn

from cellwright.layers import Dropout
from cellwright.text import train as module
from cellwright.text.checkpoint import load_checkpoint
from cellwright.text.corpus import load_corpus
from cellwright.text.files import umask, write_atomically
from cellwright.text.model import LanguageModel
from cellwright.text.optimise import build_average, build_optimizer, set_learning_rate
from cellwright.text.report import Report
from tests.text.helpers import metrics, small_job, small_settings


def test_the_state_is_carried_and_detached_between_sequential_batches(tmp_path):
    job = small_job(tmp_path / "run", epochs=1)
    seen = []

    def network(x, state):
        logits, after = job.model(x, state)
        seen.append((state, after))
        return logits, after

    job.trainer.network = network
    job.train()
    assert seen[0][0] is None
    for (_, after), (before, _) in itertools.pairwise(seen):
        assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
        assert not any(one.requires_grad for one in before)


@pytest.mark.parametrize("clip", [0.01, 0.0])
def test_the_gradient_is_clipped_and_reported_before(clip, tmp_path, monkeypatch):
    job = small_job(tmp_path / "run", epochs=1, clip=clip, optimizer="sgd", learning_rate=1e-9, average=0.0)
    after, losses = [], []
    step, cross_entropy = job.trainer.optimizer.step, nn.functional.cross_entropy

    def watched_step():
        after.append(float(torch.cat([p.grad.flatten() for p in job.model.parameters()]).norm()))
        step()

    def watched_loss(*arguments, **options):
        losses.append(cross_entropy(*arguments, **options))
        return losses[-1]

    monkeypatch.setattr(job.trainer.optimizer, "step", watched_step)
    monkeypatch.setattr(module.nn.functional, "cross_entropy", watched_loss)
    monkeypatch.setattr(job.trainer, "measure", None)
    job.train()
    reported = metrics(tmp_path / "run")[0]
    if clip:
        assert max(after) == pytest.approx(clip, rel=1e-3)
        assert reported["gradient_norm"] > 2 * clip
    else:
        assert reported["gradient_norm"] == pytest.approx(sum(after) / len(after), rel=1e-5)
    mean = sum(loss.item() for loss in losses) / len(losses)
    assert reported["train_perplexity"] == pytest.approx(math.exp(mean), rel=1e-6)
    tokens = len(losses) * 4 * 25
    assert reported["tokens_per_second"] == pytest.approx(tokens / reported["seconds"], rel=1e-6)
    assert len(reported["sample"]) == 50


def test_weight_decay_pulls_on_matrices_only():
    model = nn.Linear(3, 2)
    optimizer = build_optimizer(model, small_settings(weight_decay=0.5, optimizer="sgd", learning_rate=0.1).training)
    weight, bias = model.weight.clone(), model.bias.clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.weight, 0.95 * weight)
    torch.testing.assert_close(model.bias, bias)


def test_the_learning_rate_is_set_in_every_group():
    settings = small_settings(schedule="cosine", learning_rate=0.2).training
    optimizer = build_optimizer(nn.Linear(3, 2), settings)
    assert set_learning_rate(optimizer, settings, 0.5) == pytest.approx(0.1, rel=1e-3)
    assert {group["lr"] for group in optimizer.param_groups} == {optimizer.param_groups[0]["lr"]}
    assert len(optimizer.param_groups) == 2


def test_the_average_forgets_early_weights_and_then_decays():
    model = nn.Linear(1, 1, bias=False)
    average = build_average(model, 0.3)
    expected = None
    for count in range(12):
        model.weight.data.fill_(float(count))
        average.update_parameters(model)
        decay = min(0.3, (1 + count) / (10 + count))
        expected = float(count) if expected is None else decay * expected + (1 - decay) * count
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)
    assert build_average(model, 0.0) is None


def test_every_dropout_is_where_the_settings_say():
    settings = small_settings(dropout=0.3, input_dropout=0.2, held_dropout=True, num_layers=2).model
    model = LanguageModel(settings, 28)
    found = {name: (one.share, one.held) for name, one in model.named_modules() if isinstance(one, Dropout)}
    assert found == {
        "input_dropout": (0.2, True),
        "recurrent.dropout": (0.3, True),
        "output_dropout": (0.3, True),
    }
    shares = []
    for name, one in model.named_modules():
        if isinstance(one, Dropout):
            one.register_forward_hook(lambda *_, name=name: shares.append(name))
    model(torch.zeros(3, 2, dtype=torch.long))
    assert shares == ["input_dropout", "recurrent.dropout", "output_dropout"]


def test_weights_are_drawn_as_the_settings_say():
    model = LanguageModel(small_settings(init="tutorial", hidden_size=64).model, 28)
    weights = torch.cat([p.detach().flatten() for p in model.parameters() if p.dim() > 1])
    assert float(weights.std()) == pytest.approx(0.01, rel=0.05)
    assert not any(p.any() for p in model.parameters() if p.dim() == 1)
    bound = 64**-0.5
    cell = LanguageModel(small_settings(hidden_size=64).model, 28).recurrent.cells[0]
    assert bound * 0.95 < float(cell.W_hi.detach().abs().max()) <= bound


def test_rare_words_are_unknown_in_a_training(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("time time time machine ")
    data = small_settings(text=(str(text),), tokens="word", min_frequency=2, validation=0.0).data
    corpus = load_corpus(data)
    assert corpus.vocabulary.tokens == ["<unk>", "time"]
    assert corpus.train.tolist() == [1, 1, 1, 0]


def test_a_long_epoch_is_saved_in_between_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_SAVES", 0.0)
    job = small_job(tmp_path / "run", epochs=1)
    saved = []
    monkeypatch.setattr(job, "on_step", lambda trainer: saved.append(job.run.last.is_file()))
    job.train()
    assert saved[0] is False
    assert all(saved[1:])
    assert "epoch   1/1  batch 1/35  train perplexity" in job.console.file.getvalue()
    assert load_checkpoint(job.run.last, "training")[1]["epoch"] == 1


def test_a_terminal_shows_a_bar_and_a_file_plain_lines():
    measured = {
        "epoch": 1,
        "train_perplexity": 9.0,
        "val_perplexity": None,
        "gradient_norm": 1.0,
        "tokens_per_second": 5.0,
    }
    seen = {}
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
        with Report(console, epochs=3, batches=10) as report:
            report.step(1, 4)
            if report.bar:
                report.bar.refresh()
            report.epoch(measured)
        seen[terminal] = console.file.getvalue()
    assert "epoch 1/3" in seen[True]
    assert "4/10" in seen[True]
    assert seen[False] == "epoch   1/3  train perplexity 9.000  gradient 1.00  5 tokens/s\n"


def test_files_have_the_rights_that_new_files_have(tmp_path):
    write_atomically(tmp_path / "file", b"content")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask()
