"""A trained run writes: a prefix becomes ids, picked ids become text as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from cellwright.errors import SettingError, TextError
from cellwright.text.reading import clean
from cellwright.text.run import Run
from cellwright.text.sample import Picker, sample
from cellwright.text.vocabulary import Vocabulary

LONGEST_CHARACTER = 4  # bytes of UTF-8


def write(
    run: Run,
    prefix: str | None,
    length: int,
    picker: Picker,
    seed: int = 0,
    device: torch.device | None = None,
    cell: str | None = None,
) -> Iterator[str]:
    """Yield the prefix as the model reads it, and then piece by piece what the model writes on.

    Args:
        run: a trained run.
        prefix: what to write on from; None starts from a blank, or the most frequent word.
        length: how many tokens to write.
        picker: how each is picked.
        seed: of the picks.
        device: where to compute.
        cell: the cell's file, where it is in a file.

    Raises:
        TextError: the prefix is empty, or holds what the vocabulary does not have.
    """
    if length < 0:
        raise SettingError("length is at least 0", f"{length}", "write --length 200, say")
    cleaning, vocabulary = run.settings().data.cleaning, run.vocabulary()
    ids = read_prefix(prefix, vocabulary, cleaning)
    model = run.model(cell, device)
    never = () if vocabulary.unknown is None else (vocabulary.unknown,)
    chosen = Picker(picker.greedy, picker.temperature, picker.top_k, picker.top_p, never)
    yield vocabulary.decode(ids)
    yield from pieces(vocabulary, sample(model, ids, length, chosen, seed, device))


def read_prefix(prefix: str | None, vocabulary: Vocabulary, cleaning: str) -> list[int]:
    """The ids of a prefix, at least one; with letters-only cleaning its capitals become small."""
    if prefix is None:
        blank = [int(i) for i in vocabulary.ids(" ")]
        return [1] if not blank or blank == [vocabulary.unknown] else blank
    try:
        prefix.encode()
    except UnicodeEncodeError as error:
        raise TextError("a prefix is text", f"{prefix!r}, which is not UTF-8", "write it in UTF-8") from error
    text = prefix.lower() if cleaning == "letters" else "".join(clean([prefix], cleaning))
    missing = vocabulary.missing(text)
    if missing:
        raise TextError(
            "a prefix holds only what the vocabulary of the run has",
            f"{', '.join(map(repr, missing))} in {prefix!r}",
            "write the prefix without them",
        )
    ids = [int(i) for i in vocabulary.ids(text)]
    if not ids:
        raise TextError(
            f"a prefix has at least one {vocabulary.kind}",
            f"{prefix!r}" if prefix else "an empty one",
            "write --prefix 'the time', say, or leave it out",
        )
    return ids


def pieces(vocabulary: Vocabulary, ids: Iterable[int]) -> Iterator[str]:
    """The text of ids as they come."""
    decoder = Decoder(vocabulary)
    for token in ids:
        text = decoder.read(token)
        if text:
            yield text
    if rest := decoder.rest():
        yield rest


class Decoder:
    """Ids to text, one after the other; bytes that begin a character wait for those that end it.

    >>> from cellwright.text.vocabulary import ByteVocabulary
    >>> decoder = Decoder(ByteVocabulary.build())
    >>> [decoder.read(byte) for byte in "é!".encode()]
    ['', 'é', '!']
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._waiting: list[int] = []

    def read(self, token: int) -> str:
        """The text that is complete with this token; nothing while a character waits for its end."""
        self._waiting.append(token)
        text = self.vocabulary.decode(self._waiting)
        if text.endswith("\ufffd") and len(self._waiting) < LONGEST_CHARACTER:
            return ""
        self._waiting = []
        return self.vocabulary.joint + text

    def rest(self) -> str:
        """What still waits at the end."""
        waiting, self._waiting = self._waiting, []
        return self.vocabulary.joint + self.vocabulary.decode(waiting) if waiting else ""
