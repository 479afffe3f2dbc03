"""Byte-pair encoding through the `tokenizers` package (extra `tokenizers`)."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.errors import MissingPackageError
from cellwright.text.vocabulary import Ids, Vocabulary


class BpeVocabulary(Vocabulary):
    """Byte-level byte-pair encoding: frequent runs of bytes become tokens, and nothing is ever unknown.

    Source: Sennrich, Haddow and Birch (2016), arXiv 1508.07909, on bytes as in GPT-2.
    """

    kind = "bpe"
    unknown = None

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        super().__init__([tokenizer.id_to_token(place) for place in range(tokenizer.get_vocab_size())])

    @classmethod
    def build(cls, chunks: Iterable[str], min_frequency: int = 1, size: int = 2000) -> BpeVocabulary:
        package = _package()
        tokenizer = package.Tokenizer(package.models.BPE())
        tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = package.decoders.ByteLevel()
        trainer = package.trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=min_frequency,
            show_progress=False,
            initial_alphabet=sorted(package.pre_tokenizers.ByteLevel.alphabet()),
        )
        tokenizer.train_from_iterator(_paragraphs(chunks), trainer)
        return cls(tokenizer)

    def encode(self, chunks: Iterable[str]) -> Iterator[Ids]:
        for piece in _paragraphs(chunks):
            yield np.array(self.tokenizer.encode(piece).ids, np.uint32)

    def decode(self, ids: Iterable[int]) -> str:
        text: str = self.tokenizer.decode([int(i) for i in ids])
        return text

    def missing(self, text: str) -> list[str]:
        return []

    def characters(self) -> NDArray[np.float64]:
        # The byte-level alphabet writes each byte as one symbol; bytes that continue a character count nothing.
        continuing = _continuing_symbols()
        return np.array([sum(symbol not in continuing for symbol in token) for token in self.tokens], np.float64)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "tokens": self.tokens, "tokenizer": json.loads(self.tokenizer.to_str())}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BpeVocabulary:
        try:
            return cls(_package().Tokenizer.from_str(json.dumps(values["tokenizer"])))
        except MissingPackageError:
            raise
        except Exception as error:  # the package raises bare Exception for a text that is no tokenizer
            raise ValueError(str(error)) from error


def _package() -> Any:
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise MissingPackageError(
            "tokens 'bpe' need the package tokenizers", "a Python without it", 'pip install "cellwright[tokenizers]"'
        ) from error


def _continuing_symbols() -> set[str]:
    """The symbols of the bytes 0x80 to 0xBF: printable ones stand for themselves, others are moved past 0xFF."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [value for value in range(256) if value not in printable]
    symbols = {value: chr(value) for value in printable}
    symbols.update({value: chr(256 + place) for place, value in enumerate(moved)})
    return {symbols[value] for value in range(0x80, 0xC0)}


def _paragraphs(chunks: Iterable[str], longest: int = 100_000) -> Iterator[str]:
    """Pieces that end at a blank, so that no token is cut and none depends on where the chunks end."""
    held = ""
    for chunk in chunks:
        held += chunk
        while len(held) > longest:
            cut = held.rfind(" ", 0, longest)
            cut = cut if cut > 0 else longest
            yield held[:cut]
            held = held[cut:]
    yield held
