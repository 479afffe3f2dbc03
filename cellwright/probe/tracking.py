"""track: which unit follows what in a text, and what it does there, as lines of characters and shades."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cellwright.errors import ShapeError
from cellwright.probe.record import Recording

SHADES = " ░▒▓█"
LONGEST = 10  # what "letters since a blank" counts up to
WIDTH = 78  # characters on a line


def _since_blank(text: Sequence[str]) -> list[float]:
    found, count = [], 0
    for character in text:
        count = 0 if character.isspace() else min(count + 1, LONGEST)
        found.append(float(count))
    return found


def _next_blank(text: Sequence[str]) -> list[float]:
    return [float(character.isspace()) for character in [*text[1:], text[-1]]]


# What units are compared with: a number for each character.
PROPERTIES: dict[str, Callable[[Sequence[str]], list[float]]] = {
    "a blank": lambda text: [float(character.isspace()) for character in text],
    "letters since a blank": _since_blank,
    "a blank comes next": _next_blank,
    "a vowel": lambda text: [float(character.lower() in "aeiou") for character in text],
    "a capital": lambda text: [float(character.isupper()) for character in text],
    "a digit": lambda text: [float(character.isdigit()) for character in text],
    "the place in the text": lambda text: [float(place) for place in range(len(text))],
}


@dataclass(frozen=True)
class Tracked:
    """The unit that follows a property most: where it is, and how they correlate from -1 to 1."""

    what: str
    where: str
    name: str
    unit: int
    correlation: float

    def __str__(self) -> str:
        return f"{self.what}: {self.name}[{self.unit}] of {self.where}, correlation {self.correlation:+.2f}"


def track(recording: Recording, text: Sequence[str], row: int = 0) -> list[Tracked]:
    """Of every property of characters, the unit of any value that follows it most.

    >>> from cellwright.cells import RNN
    >>> from cellwright.probe import record
    >>> one_hot = torch.eye(3)[[0, 1, 2, 1, 0, 1, 2, 2]].unsqueeze(1)
    >>> [found.what for found in track(record(RNN(3, 4), one_hot), "ab ba b ")][:2]
    ['a blank', 'letters since a blank']

    Args:
        recording: of a layer that read the text.
        text: its characters, or tokens, one for each step.
        row: which sequence of the batch read it.

    Raises:
        ShapeError: there are more or fewer characters than steps.
    """
    _check(recording, text)
    found = []
    for what, of in PROPERTIES.items():
        wanted = torch.tensor(of(text), dtype=torch.float64)
        if wanted.std() > 0:
            found.append(max(_candidates(recording, wanted, what, row), key=lambda one: abs(one.correlation)))
    return found


def _candidates(recording: Recording, wanted: Tensor, what: str, row: int) -> list[Tracked]:
    found = []
    for where, values in recording.cells():
        for name, value in values.items():
            follows = _correlation(value[:, row].double().cpu(), wanted)
            unit = int(follows.abs().argmax())
            found.append(Tracked(what, where, name, unit, float(follows[unit])))
    return found


def _correlation(values: Tensor, wanted: Tensor) -> Tensor:
    """Of every column of (T, H) the correlation with (T,); 0 where it is constant."""
    values, wanted = values - values.mean(0), wanted - wanted.mean()
    lengths = values.norm(dim=0) * wanted.norm()
    return torch.where(lengths > 1e-12, wanted @ values / lengths.clamp_min(1e-12), 0.0)


def shaded(text: Sequence[str], values: Tensor) -> str:
    """A text with a shade below each character, the darker the larger the value there.

    >>> print(shaded("ab c", torch.tensor([0.0, 0.5, 1.0, 0.3])))
    ab c
     ▒█░
    """
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else torch.zeros_like(values)
    blocks = "".join(SHADES[round(value * (len(SHADES) - 1))] for value in scaled.tolist())
    plain = "".join(token[0] if token.isprintable() and token else " " for token in text)
    lines = []
    for start in range(0, len(plain), WIDTH):
        lines += [plain[start : start + WIDTH].rstrip(), blocks[start : start + WIDTH].rstrip()]
    return "\n".join(lines)


def _check(recording: Recording, text: Sequence[str]) -> None:
    steps = int(recording.lengths.max())
    if len(text) != steps:
        raise ShapeError("a text has a character for each step", f"{len(text)} for {steps} steps", "pass what x was")
