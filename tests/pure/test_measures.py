"""Perplexity, bits per character and n-gram baselines against slow and plain counting."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from torch import nn

from cellwright.cells import LSTM
from cellwright.errors import TextError
from cellwright.layers import Recurrent
from cellwright.text import evaluate as module
from cellwright.text.evaluate import Score, evaluate, layout
from cellwright.text.ngram import baselines, best_baseline


class Echo(nn.Module):
    """Scores that depend on all tokens read so far: their sum, in the state."""

    def forward(self, tokens, state=None):
        before = torch.zeros(tokens.shape[1]) if state is None else state
        total = before + tokens.cumsum(0)  # (T, B)
        return torch.stack([torch.cos(total * k) for k in range(5)], dim=-1), total[-1]


def test_one_row_scores_exactly_every_next_token():
    tokens = np.random.default_rng(0).integers(5, size=90).astype(np.uint8)
    logits, _ = Echo()(torch.from_numpy(tokens[:-1].astype(np.int64))[:, None])
    expected = nn.functional.cross_entropy(logits[:, 0], torch.from_numpy(tokens[1:].astype(np.int64)), reduction="sum")
    score = evaluate(Echo(), tokens, np.full(5, 2.0), torch.device("cpu"))
    assert score.tokens == 89
    assert score.characters == 178
    assert score.nats == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("count", [2, 101, 102, 799, 800, 801, 5000, 40_001])
def test_every_token_is_scored_once_from_enough_before_it(count, monkeypatch):
    """A model that scores each token by its own id: the sum tells which were scored how often."""

    class ById(nn.Module):
        def forward(self, tokens, state=None):
            return torch.zeros(*tokens.shape, 1), tokens[-1]

    scored = []

    def surprise(logits, targets, reduction):
        scored.append(targets.double())
        return targets.double()

    monkeypatch.setattr(module.nn.functional, "cross_entropy", surprise)
    tokens = np.arange(count)
    score = evaluate(ById(), tokens, np.ones(count), torch.device("cpu"))
    assert score.nats == sum(range(1, count))
    rows, length = layout(count - 1)
    assert rows * length + module.WARM_UP >= count - 1


def test_reading_side_by_side_changes_little():
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent, self.output = Recurrent(LSTM(5, 8)), nn.Linear(8, 5)

        def forward(self, tokens, state=None):
            y, state = self.recurrent(nn.functional.one_hot(tokens, 5).float(), state)
            return self.output(y), state

    tokens = np.random.default_rng(0).integers(5, size=3000).astype(np.uint8)
    model = Model()
    with torch.no_grad():
        logits, _ = model(torch.from_numpy(tokens[:-1].astype(np.int64))[:, None])
    targets = torch.from_numpy(tokens[1:].astype(np.int64))
    whole = float(nn.functional.cross_entropy(logits[:, 0], targets, reduction="sum"))
    assert evaluate(model, tokens, np.ones(5), torch.device("cpu")).nats == pytest.approx(whole, rel=1e-5)


def test_a_text_too_short_to_measure_is_refused():
    with pytest.raises(TextError, match="at least 2 tokens"):
        evaluate(Echo(), np.array([1]), np.ones(5), torch.device("cpu"))


def test_score_in_three_units():
    score = Score(nats=6 * math.log(4), tokens=6, characters=12)
    assert score.perplexity == pytest.approx(4)
    assert score.bits_per_character == pytest.approx(1)


def plain_ngrams(train, test, size, order):
    """Both smoothings of an n-gram model, counted with dictionaries."""
    counts = [defaultdict(Counter) for _ in range(order)]
    for place, token in enumerate(train):
        for length in range(order):
            context = tuple(train[max(0, place - length) : place])
            context = (None,) * (length - len(context)) + context
            counts[length][context][token] += 1
    added = mixed = 0.0
    for place in range(1, len(test)):
        token, mixture = test[place], 1 / size
        for length in range(order):
            context = tuple(test[max(0, place - length) : place])
            context = (None,) * (length - len(context)) + context
            seen = counts[length][context]
            total, kinds = sum(seen.values()), len(seen)
            if total:
                mixture = (seen[token] + kinds * mixture) / (total + kinds)
        added -= math.log((seen[token] + 0.01) / (total + 0.01 * size))
        mixed -= math.log(mixture)
    return added, mixed


def test_ngrams_are_what_counting_gives():
    random = np.random.default_rng(1)
    train, test = (random.choice(4, size=n, p=[0.1, 0.2, 0.3, 0.4]).astype(np.uint8) for n in (300, 80))
    found = baselines(train, test, np.ones(5), orders=4)
    for one in found:
        added, mixed = plain_ngrams(train.tolist(), test.tolist(), 5, one.order)
        assert one.added.nats == pytest.approx(added, rel=1e-12)
        assert one.interpolated.nats == pytest.approx(mixed, rel=1e-12)
    assert best_baseline(found).nats == min(s.nats for b in found for s in (b.added, b.interpolated))
