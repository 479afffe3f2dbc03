"""Writing on from a prefix, one token at a time; it carries the state and knows nothing of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cellwright.errors import SettingError

Model = Callable[[Tensor, Any], tuple[Tensor, Any]]


@dataclass(frozen=True)
class Picker:
    """How the next token is picked from the scores.

    >>> Picker(greedy=True).pick(torch.tensor([0.1, 2.0, 0.3]), torch.Generator())
    1

    Args:
        greedy: always the likeliest.
        temperature: below 1 safer, above 1 bolder.
        top_k: only the k likeliest; 0: all.
        top_p: only the likeliest that together reach this probability; 1: all.
        never: ids that are never picked.
    """

    greedy: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    never: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise SettingError("temperature is above 0", f"{self.temperature}", "write 0.8, say, or --greedy")
        if self.top_k < 0:
            raise SettingError("top_k is at least 0", f"{self.top_k}", "write 10, say, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise SettingError("top_p is above 0 and at most 1", f"{self.top_p}", "write 0.9, say, or 1 for all")

    def pick(self, logits: Tensor, generator: torch.Generator) -> int:
        """The id of the next token from its scores (V,)."""
        return pick_rows(logits.unsqueeze(0), [self], [generator])[0]


def pick_rows(logits: Tensor, pickers: Sequence[Picker], generators: Sequence[torch.Generator]) -> list[int]:
    """The next token of several texts at once, each picked by its own rule and with its own randomness.

    >>> pick_rows(torch.tensor([[0.1, 2.0], [3.0, 0.2]]), [Picker(greedy=True)] * 2, [torch.Generator()] * 2)
    [1, 0]

    Args:
        logits: scores (B, V).
        pickers: how each is picked.
        generators: of each text; a greedy pick draws nothing.
    """
    scores = logits.detach().float().cpu().clone()
    never = [(row, token) for row, picker in enumerate(pickers) for token in picker.never]
    if never:
        scores[tuple(torch.tensor(never).T)] = -torch.inf
    if all(picker.greedy for picker in pickers):
        return [int(token) for token in scores.argmax(1)]
    waiting = torch.ones_like(scores)  # of each token: the first to ring, at its rate, is picked
    for row, picker, generator in zip(waiting, pickers, generators, strict=True):
        if not picker.greedy:
            row.exponential_(generator=generator)
    # What torch.multinomial does for one pick, whose checks cost ten times as much as the pick.
    found = (_probabilities(scores, pickers) / waiting).argmax(1).tolist()
    return [int(token) for token in found]


def _probabilities(scores: Tensor, pickers: Sequence[Picker]) -> Tensor:
    """The probabilities (B, V) that scores come to; a greedy row keeps its likeliest alone."""

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values).unsqueeze(1)

    temperature = column([picker.temperature for picker in pickers])
    top_p = column([picker.top_p for picker in pickers])
    top_k = column([1 if picker.greedy else picker.top_k or scores.shape[1] for picker in pickers])
    ranked, order = (scores / temperature).softmax(1).sort(dim=1, descending=True, stable=True)
    kept = ranked.cumsum(1) - ranked < top_p  # the first always
    kept &= torch.arange(scores.shape[1]) < top_k
    return torch.zeros_like(ranked).scatter(1, order, ranked * kept)


@torch.no_grad()
def sample(
    model: Model, prefix: Sequence[int], length: int, picker: Picker, seed: int = 0, device: torch.device | None = None
) -> Iterator[int]:
    """Pick `length` tokens one after the other, each given the prefix and all picked before.

    Args:
        model: called as model(tokens (T, 1), state); returns scores (T, 1, V) and the next state.
        prefix: ids to read first, at least one.
        length: how many to pick.
        picker: how.
        seed: of the picks.
        device: where the model is.

    Yields:
        The ids as they are picked.
    """
    generator = torch.Generator().manual_seed(seed)
    logits, state = model(torch.tensor(prefix, device=device).unsqueeze(1), None)  # tokens (T, 1)
    for _ in range(length):
        token = picker.pick(logits[-1, 0], generator)
        yield token
        logits, state = model(torch.tensor([[token]], device=device), state)
