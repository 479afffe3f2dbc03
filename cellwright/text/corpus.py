"""A corpus: texts read, cleaned and encoded into one array of token ids on disk."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellwright.errors import TextError
from cellwright.text.bpe import BpeVocabulary
from cellwright.text.config import DataSettings
from cellwright.text.files import cannot_write
from cellwright.text.reading import read
from cellwright.text.sources import Note, find_sources
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


def load_corpus(
    settings: DataSettings,
    directory: Path | None = None,
    vocabulary: Vocabulary | None = None,
    note: Note | None = None,
) -> Corpus:
    """Read the texts of the settings into token ids.

    The text passes through memory in chunks, twice: once to learn the vocabulary, once to encode. The ids
    are memory-mapped from a file without a name, which vanishes with the process.

    Args:
        settings: which texts, and how they become tokens.
        directory: where that file lies (default: the system's place for temporary files).
        vocabulary: one to encode with, instead of learning it from the text.
        note: see `find_sources`.

    Raises:
        TextError: a text cannot be read.
        RunError: the disk is full.
    """
    sources = find_sources(settings.text, note)
    digest = hashlib.sha256()
    if vocabulary is None:
        kind = KINDS[settings.tokens]
        vocabulary = kind.build(read(sources, settings.cleaning), settings.min_frequency, settings.vocabulary_size)
    tokens = _store(vocabulary, read(sources, settings.cleaning, digest), directory, settings.max_tokens)
    held_out = int(len(tokens) * settings.validation)
    cut = len(tokens) - held_out
    return Corpus(tuple(s.name for s in sources), vocabulary, tokens[:cut], tokens[cut:], digest.hexdigest())


def _store(vocabulary: Vocabulary, chunks: Iterable[str], directory: Path | None, limit: int) -> Ids:
    kind = np.min_scalar_type(max(len(vocabulary) - 1, 1))
    place = directory or Path(tempfile.gettempdir())
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            for ids in _first(vocabulary.encode(chunks), limit):
                file.write(ids.astype(kind).tobytes())
            file.flush()
            if file.tell() == 0:
                raise TextError(
                    "a text holds some tokens", "none after cleaning", "try --cleaning none, or another text"
                )
            tokens: Ids = np.memmap(file, kind, "r")
            return tokens
    except OSError as error:
        raise cannot_write(place, error) from error


def _first(pieces: Iterator[Ids], limit: int) -> Iterator[Ids]:
    """The first `limit` ids (all for 0); the text is still read to its end, so that its checksum is whole."""
    taken = 0
    for ids in pieces:
        ids = ids[: limit - taken] if limit else ids
        taken += len(ids)
        yield ids
