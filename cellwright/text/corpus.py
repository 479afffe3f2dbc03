"""A corpus: texts read, cleaned and encoded into one array of token ids on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from cellwright.errors import TextError
from cellwright.text.bpe import BpeVocabulary
from cellwright.text.config import DataSettings
from cellwright.text.reading import read
from cellwright.text.sources import find_sources
from cellwright.text.vocabulary import ByteVocabulary, CharVocabulary, Ids, Vocabulary, WordVocabulary

KINDS: dict[str, type[Vocabulary]] = {
    kind.kind: kind for kind in (CharVocabulary, ByteVocabulary, WordVocabulary, BpeVocabulary)
}


@dataclass(frozen=True)
class Corpus:
    """The tokens to train and to validate on, the vocabulary, and what the texts were."""

    names: tuple[str, ...]
    vocabulary: Vocabulary
    train: Ids
    validation: Ids
    sha256: str


def load_corpus(settings: DataSettings, vocabulary: Vocabulary | None = None) -> Corpus:
    """Read the texts of the settings into token ids.

    The text passes through memory in chunks, twice: once to learn the vocabulary, once to encode. The ids
    are memory-mapped from a file without a name in $TMPDIR or /var/tmp, which vanishes with the process.

    Args:
        settings: which texts, and how they become tokens.
        vocabulary: one to encode with, instead of learning it from the text.

    Raises:
        TextError: a text cannot be read, or there is no room for its tokens.
    """
    sources = find_sources(settings.text)
    digest = hashlib.sha256()
    if vocabulary is None:
        kind = KINDS[settings.tokens]
        vocabulary = kind.build(read(sources, settings.cleaning), settings.min_frequency, settings.vocabulary_size)
    tokens = _store(vocabulary, read(sources, settings.cleaning, digest), settings.max_tokens)
    held_out = int(len(tokens) * settings.validation)
    cut = len(tokens) - held_out
    return Corpus(tuple(s.name for s in sources), vocabulary, tokens[:cut], tokens[cut:], digest.hexdigest())


def _store(vocabulary: Vocabulary, chunks: Iterable[str], limit: int) -> Ids:
    kind = np.min_scalar_type(max(len(vocabulary) - 1, 1))
    place = _room()
    with tempfile.TemporaryFile(dir=place) as file:
        for ids in _first(vocabulary.encode(chunks), limit):
            try:
                file.write(ids.astype(kind).tobytes())
                file.flush()
            except OSError as error:
                raise TextError(
                    "the tokens of a text need room on a disk",
                    f"{error.strerror} in {place}",
                    "name a directory on a larger disk: TMPDIR=... cellwright ...",
                ) from error
        if file.tell() == 0:
            raise TextError("a text holds some tokens", "none after cleaning", "try --cleaning none, or another text")
        tokens: Ids = np.memmap(file, kind, "r")
    return tokens


def _room() -> str:
    """Where large temporary files go: /tmp may lie in memory, /var/tmp does not."""
    large = "/var/tmp"
    wanted = os.environ.get("TMPDIR") or large
    return wanted if os.access(wanted, os.W_OK) else tempfile.gettempdir()


def _first(pieces: Iterator[Ids], limit: int) -> Iterator[Ids]:
    """The first `limit` ids (all for 0); the text is still read to its end, so that its checksum is whole."""
    taken = 0
    for ids in pieces:
        ids = ids[: limit - taken] if limit else ids
        taken += len(ids)
        yield ids
