"""n-gram models, the baselines that a recurrent model has to beat."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellwright.text.evaluate import Score, count_characters
from cellwright.text.vocabulary import Ids

MOST_TOKENS = 20_000_000
ADDED = 0.01


@dataclass(frozen=True)
class Baseline:
    """An n-gram model's scores on a text: smoothed by adding 0.01 to counts, and by Witten-Bell interpolation."""

    order: int
    added: Score
    interpolated: Score


def baselines(train: Ids, test: Ids, characters: NDArray[np.float64], orders: int = 6) -> list[Baseline]:
    """Score every token of a text but its first by n-gram models, n = 1 to `orders`.

    A model of order n predicts from the n - 1 tokens before, counted in the training text. Two kinds: the
    count plus 0.01 over the sum of those; and the Witten-Bell mixture with all shorter contexts, which is
    much the stronger one for long contexts.

    >>> text = np.array([1, 2, 1, 2, 1, 2, 1, 2], np.uint8)
    >>> [round(b.added.perplexity, 2) for b in baselines(text, text, np.ones(3), orders=2)]
    [2.0, 1.01]

    Args:
        train: ids to count.
        test: ids to score, at least 2; its first tokens have shorter contexts.
        characters: how many characters each id stands for (V,).

    Source: Witten and Bell (1991), IEEE Transactions on Information Theory 37(4).
    """
    size, count = len(characters), len(test) - 1
    both = np.concatenate([train, test]).astype(np.int64)
    target = both + 1  # 0 marks a place before the text begins
    context = np.zeros(len(both), np.int64)
    mixture = np.full(count, 1.0 / size)
    length = count_characters(test[1:], characters)
    found = []
    for order in range(1, orders + 1):
        if order > 1:
            context = _longer(context, target, order, len(train), size)
        seen, total, kinds = _counts(context, both, len(train), size)
        added = (seen + ADDED) / (total + ADDED * size)
        with np.errstate(invalid="ignore"):
            mixture = np.where(total > 0, (seen + kinds * mixture) / np.maximum(total + kinds, 1), mixture)
        scores = [Score(float(-np.log(p).sum()), count, length) for p in (added, mixture)]
        found.append(Baseline(order, *scores))
    return found


def _longer(
    context: NDArray[np.int64], target: NDArray[np.int64], order: int, cut: int, size: int
) -> NDArray[np.int64]:
    """Number contexts that are one token longer; none reaches back over the beginning of its text."""
    older = np.zeros_like(target)
    older[order - 1 :] = target[: len(target) - order + 1]
    older[cut : cut + order - 1] = 0
    numbers: NDArray[np.int64] = np.unique(context * (size + 1) + older, return_inverse=True)[1]
    return numbers


def _counts(context: NDArray[np.int64], ids: NDArray[np.int64], cut: int, size: int) -> tuple[NDArray[np.float64], ...]:
    """For every scored token, in training: how often it followed its context, how often any did, how many kinds."""
    pairs = np.unique(context * size + ids, return_inverse=True)[1]
    pair_counts = np.bincount(pairs[:cut], minlength=int(pairs.max()) + 1)
    totals = np.bincount(context[:cut], minlength=int(context.max()) + 1)
    owner = np.zeros(len(pair_counts), np.int64)
    owner[pairs] = context
    kinds = np.bincount(owner, weights=pair_counts > 0, minlength=len(totals))
    scored = slice(cut + 1, None)
    counts = (pair_counts[pairs[scored]], totals[context[scored]], kinds[context[scored]])
    return tuple(count.astype(np.float64) for count in counts)


def best_baseline(found: list[Baseline]) -> Score:
    """The baseline that predicts best."""
    scores = [score for one in found for score in (one.added, one.interpolated)]
    return min(scores, key=lambda score: score.nats if math.isfinite(score.nats) else math.inf)
