"""How well a model predicts a text: perplexity and bits per character."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cellwright.errors import TextError
from cellwright.text.vocabulary import Ids

WARM_UP = 100
MOST_ROWS = 64
STEPS = 64


@dataclass(frozen=True)
class Score:
    """The surprise of a text: natural-log units in sum, over so many tokens and characters.

    >>> Score(nats=2 * math.log(8), tokens=2, characters=4).bits_per_character
    1.5
    """

    nats: float
    tokens: int
    characters: float

    @property
    def perplexity(self) -> float:
        """exp of the mean surprise of a token: among how many equally likely ones the model still wavers."""
        return math.exp(min(self.nats / self.tokens, 700.0))

    @property
    def bits_per_character(self) -> float:
        """Mean surprise of a character, which can be compared whatever the tokens are."""
        return self.nats / math.log(2) / self.characters


def layout(tokens: int) -> tuple[int, int]:
    """How many rows read a text side by side, and how many new tokens each scores."""
    rows = max(1, min(MOST_ROWS, tokens // (4 * WARM_UP)))
    return rows, math.ceil(max(tokens - WARM_UP, 1) / rows)


@torch.no_grad()
def evaluate(model: nn.Module, tokens: Ids, characters: NDArray[np.float64], device: torch.device) -> Score:
    """Score every token of a text but its first, each exactly once, from at least 100 tokens before it.

    Rows read the text side by side for speed. Row r starts at r * length and scores what comes after its
    first 100 tokens, which its left neighbour has scored; row 0 scores those too.

    Args:
        model: called as model(tokens (T, B), state); returns scores (T, B, V) and the next state.
        tokens: the text as ids (N,), at least 2.
        characters: how many characters each id stands for (V,).
        device: where the model is.
    """
    targets = len(tokens) - 1
    if targets < 1:
        raise TextError("a text to measure on has at least 2 tokens", f"{len(tokens)}", "name a longer text")
    rows, length = layout(targets)
    first = np.arange(rows) * length  # (B,)
    was_training, state, nats = model.training, None, 0.0
    model.eval()
    for begin in range(0, length + WARM_UP, STEPS):
        places = begin + np.arange(min(STEPS, length + WARM_UP - begin))[:, None] + first  # (T, B)
        inside = np.minimum(places, targets - 1)
        x = torch.from_numpy(tokens[inside].astype(np.int64)).to(device)
        y = torch.from_numpy(tokens[inside + 1].astype(np.int64)).to(device)
        logits, state = model(x, state)
        surprise = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)
        mine = (places < targets) & ((places >= first + WARM_UP) | (first == 0))
        nats += float(surprise.double().cpu().numpy()[mine].sum())
    model.train(was_training)
    return Score(nats, targets, float(count_characters(tokens[1:], characters)))


def count_characters(tokens: Ids, characters: NDArray[np.float64], piece: int = 1 << 20) -> float:
    """How many characters the tokens stand for, a piece at a time."""
    return sum(float(characters[tokens[k : k + piece]].sum()) for k in range(0, len(tokens), piece))
