"""Reading text in chunks: bytes to characters to clean characters, never the whole text at once."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from cellwright.errors import TextError
from cellwright.text.sources import Source

CHUNK_BYTES = 1 << 22
SPACE = ord(" ")
# Every byte that is no ASCII letter becomes a space, capitals become small.
LETTERS = bytes(ord(chr(b).lower()) if chr(b).isalpha() and b < 128 else SPACE for b in range(256))


def read(sources: Iterable[Source], cleaning: str, digest: hashlib._Hash | None = None) -> Iterator[str]:
    """The clean characters of all sources, one after the other, in chunks.

    >>> from cellwright.text.sources import find_sources
    >>> next(read(find_sources(["python-docs"]), "letters"))[:23]
    'the assert statement as'

    Args:
        sources: what `find_sources` returned.
        cleaning: "letters" (lower-case letters, every run of anything else one space) or "none".
        digest: a hash that is fed with the bytes as they are read.

    Raises:
        TextError: a source is empty, binary or not UTF-8.
    """
    return clean(_decode_all(sources, digest), cleaning)


def clean(chunks: Iterable[str], cleaning: str) -> Iterator[str]:
    """Characters as the cleaning leaves them."""
    return _letters(chunks) if cleaning == "letters" else _unix_lines(chunks)


def _letters(chunks: Iterable[str]) -> Iterator[str]:
    space_before = False
    for chunk in chunks:
        letters = np.frombuffer(chunk.encode("ascii", "replace").translate(LETTERS), np.uint8)
        if len(letters) == 0:
            continue
        space = letters == SPACE
        repeated = space & np.concatenate(([space_before], space[:-1]))
        space_before = bool(space[-1])
        yield letters[~repeated].tobytes().decode("ascii")


def _unix_lines(chunks: Iterable[str]) -> Iterator[str]:
    held = ""
    for chunk in chunks:
        chunk = held + chunk
        held = "\r" if chunk.endswith("\r") else ""  # its "\n" may open the next chunk
        yield chunk.removesuffix(held).replace("\r\n", "\n").replace("\r", "\n")
    if held:
        yield "\n"


def _decode_all(sources: Iterable[Source], digest: hashlib._Hash | None) -> Iterator[str]:
    for place, source in enumerate(sources):
        if place:
            yield "\n"
        yield from _decode(source, digest)


def _decode(source: Source, digest: hashlib._Hash | None) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    offset = 0
    with source.open() as file:
        while True:
            content = file.read(CHUNK_BYTES)
            if digest:
                digest.update(content)
            if b"\0" in content:
                raise _not_text(source, f"a zero byte at offset {offset + content.index(0)}: a binary file")
            pending = len(decoder.getstate()[0])
            try:
                yield decoder.decode(content, final=not content)
            except UnicodeDecodeError as error:
                at = max(offset - pending, 0) + error.start
                raise _not_text(source, f"byte 0x{error.object[error.start]:02x} at offset {at}") from error
            if not content:
                break
            offset += len(content)
    if offset == 0:
        raise TextError(
            "a text holds at least a few thousand characters", f"{source.name}, which is empty", "name another file"
        )


def _not_text(source: Source, found: str) -> TextError:
    return TextError(
        "a text is UTF-8", f"{source.name} with {found}", "convert it, for example: iconv -f latin1 -t utf-8 OLD > NEW"
    )
