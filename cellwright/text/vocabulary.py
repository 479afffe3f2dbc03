"""Vocabularies: text to token ids and back, by character, byte or word."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cellwright.errors import TextError
from cellwright.text.files import write_json

Ids = NDArray[np.unsignedinteger[Any]]

UNKNOWN = "<unk>"
CODE_POINTS = 0x110000


class Vocabulary(ABC):
    """What the tokens of a text are: ids 0 to len - 1, most frequent first.

    Subclasses say how to `build` one from text, and how to `encode` and `decode`.

    >>> vocabulary = CharVocabulary.build(["abba", "c"], min_frequency=2)
    >>> vocabulary.tokens
    ['<unk>', 'a', 'b']
    >>> [int(i) for i in vocabulary.ids("cab")]
    [0, 1, 2]
    """

    kind: ClassVar[str]
    joint: ClassVar[str] = ""
    unknown: int | None = 0

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = list(tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    @abstractmethod
    def build(cls, chunks: Iterable[str], min_frequency: int = 1, size: int = 0) -> Vocabulary:
        """A vocabulary of the text in chunks: tokens seen `min_frequency` times, or the `size` best (BPE)."""

    @abstractmethod
    def encode(self, chunks: Iterable[str]) -> Iterator[Ids]:
        """The ids of a text that comes in chunks."""

    def ids(self, text: str) -> Ids:
        """The ids of one text."""
        return np.concatenate([np.empty(0, np.uint32), *self.encode([text])])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""
        return self.joint.join(self.tokens[i] for i in ids)

    def missing(self, text: str) -> list[str]:
        """What of a text the vocabulary does not have, each once."""
        known = set(self.tokens)
        return [piece for piece in dict.fromkeys(text) if piece not in known]

    def characters(self) -> NDArray[np.float64]:
        """How many characters each token stands for; one for the unknown token."""
        lengths = np.array([len(token) + len(self.joint) for token in self.tokens], np.float64)
        if self.unknown is not None:
            lengths[self.unknown] = 1
        return lengths

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` reads."""
        return {"kind": self.kind, "tokens": self.tokens}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Vocabulary:
        """A vocabulary from what `to_dict` gave."""
        return cls(values["tokens"])

    def save(self, path: Path) -> None:
        """Write the vocabulary as JSON."""
        write_json(path, self.to_dict())


class CharVocabulary(Vocabulary):
    """One token for every character."""

    kind = "char"

    @classmethod
    def build(cls, chunks: Iterable[str], min_frequency: int = 1, size: int = 0) -> CharVocabulary:
        counts = np.zeros(CODE_POINTS, np.int64)
        for chunk in chunks:
            counts += np.bincount(_code_points(chunk), minlength=CODE_POINTS)
        seen = np.flatnonzero(counts >= max(min_frequency, 1))
        order = seen[np.argsort(-counts[seen], kind="stable")]
        return cls([UNKNOWN, *map(chr, order)])

    def encode(self, chunks: Iterable[str]) -> Iterator[Ids]:
        table = np.zeros(CODE_POINTS, np.uint32)
        for place, token in enumerate(self.tokens):
            if len(token) == 1:
                table[ord(token)] = place
        for chunk in chunks:
            yield table[_code_points(chunk)]


class ByteVocabulary(Vocabulary):
    """One token for every byte of UTF-8; nothing is ever unknown."""

    kind = "byte"
    unknown = None

    @classmethod
    def build(cls, chunks: Iterable[str] = (), min_frequency: int = 1, size: int = 0) -> ByteVocabulary:
        return cls([f"{value:02x}" for value in range(256)])

    def encode(self, chunks: Iterable[str]) -> Iterator[Ids]:
        for chunk in chunks:
            yield np.frombuffer(chunk.encode(), np.uint8)

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(int(i) for i in ids).decode("utf-8", "replace")

    def missing(self, text: str) -> list[str]:
        return []

    def characters(self) -> NDArray[np.float64]:
        # Bytes that continue a character count nothing.
        return np.array([(value & 0xC0) != 0x80 for value in range(256)], np.float64)


class WordVocabulary(Vocabulary):
    """One token for every word between blanks."""

    kind = "word"
    joint = " "

    @classmethod
    def build(cls, chunks: Iterable[str], min_frequency: int = 1, size: int = 0) -> WordVocabulary:
        counts: Counter[str] = Counter()
        for words in _words(chunks):
            counts.update(words)
        return cls([UNKNOWN, *(word for word, count in counts.most_common() if count >= min_frequency)])

    def encode(self, chunks: Iterable[str]) -> Iterator[Ids]:
        known = {word: place for place, word in enumerate(self.tokens)}
        for words in _words(chunks):
            yield np.fromiter((known.get(word, 0) for word in words), np.uint32, len(words))

    def missing(self, text: str) -> list[str]:
        known = set(self.tokens)
        return [word for word in dict.fromkeys(text.split()) if word not in known]


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _words(chunks: Iterable[str]) -> Iterator[list[str]]:
    """Words of every chunk; one that a chunk's end cuts in two waits for its other half."""
    held = ""
    for chunk in chunks:
        chunk = held + chunk
        words = chunk.split()
        held = words.pop() if words and not chunk[-1].isspace() else ""
        yield words
    yield held.split()


def load_vocabulary(path: Path, kinds: dict[str, type[Vocabulary]]) -> Vocabulary:
    """A vocabulary from the JSON that `save` wrote.

    Raises:
        TextError: the file is missing or is not a vocabulary.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        tokens = values["tokens"]
        if not (isinstance(tokens, list) and tokens and all(isinstance(token, str) for token in tokens)):
            raise ValueError("tokens is not a list of strings")
        return kinds[values["kind"]].from_dict(values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TextError(
            "vocabulary.json holds a kind and a list of tokens",
            f"{path}: {type(error).__name__} {error}",
            "restore the file, or train again",
        ) from error
