"""Where texts come from: files, The Time Machine from cache or network, Python's own documentation."""

from __future__ import annotations

import hashlib
import io
import os
import pydoc_data.topics
import re
import stat
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cellwright.cache import user_cache
from cellwright.errors import TextError
from cellwright.text.files import write_atomically

TIME_MACHINE = "time-machine"
PYTHON_DOCS = "python-docs"

MIRROR = "http://d2l-data.s3-accelerate.amazonaws.com/timemachine.txt"
MIRROR_SHA1 = "090b5e7e70c295757f55df93cb0a180b9691891a"
GUTENBERG = "https://www.gutenberg.org/cache/epub/35/pg35.txt"
BODY = re.compile(rb"\*\*\* ?START OF TH[^*]*\*\*\*(.*)\*\*\* ?END OF TH", re.DOTALL)
SECONDS_TO_WAIT = 10.0


@dataclass(frozen=True)
class Source:
    """A text by its name and a way to open its bytes."""

    name: str
    open: Callable[[], BinaryIO]


Note = Callable[[str], None]


def find_sources(names: Sequence[str], note: Note | None = None) -> list[Source]:
    """The texts behind paths and the names time-machine and python-docs.

    >>> [source.name for source in find_sources(["python-docs"])]
    ['python-docs']

    Args:
        names: paths of UTF-8 files, `time-machine`, `python-docs`, in any mixture.
        note: is told in one line when The Time Machine is out of reach and python-docs stands in; with
            None nothing may stand in.

    Raises:
        TextError: a path is missing, or is a directory, or may not be read; The Time Machine is out of reach.
    """
    if not names:
        raise TextError("training needs at least one text", "none", "name a file, time-machine or python-docs")
    return [_find(name, note) for name in names]


def _find(name: str, note: Note | None) -> Source:
    if name == PYTHON_DOCS:
        return Source(PYTHON_DOCS, _python_docs)
    if name == TIME_MACHINE:
        path = _time_machine(note)
        return _file(path, TIME_MACHINE) if path else Source(PYTHON_DOCS, _python_docs)
    return _file(Path(name), str(Path(name).absolute()))


def _file(path: Path, name: str) -> Source:
    names = f"{TIME_MACHINE} or {PYTHON_DOCS}"
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise TextError(
            "a text is a file that exists", f"{path} ({reason})", f"check the path, or write {names}"
        ) from error
    if stat.S_ISDIR(mode):
        raise TextError("a text is a file", f"the directory {path}", f"name its files, for example {path}/*.txt")
    if not stat.S_ISREG(mode):
        raise TextError(
            "a text is a file that can be read twice", f"{path}, which is a pipe or device", "save it first"
        )
    if not os.access(path, os.R_OK):
        raise TextError("a text is a file you may read", str(path), f"chmod u+r {path}")
    return Source(name, lambda: open(path, "rb"))


def _python_docs() -> BinaryIO:
    topics = pydoc_data.topics.topics
    return io.BytesIO("\n".join(topics[name] for name in sorted(topics)).encode())


def cache_directory() -> Path:
    """Where downloaded texts are kept: $CELLWRIGHT_DATA, else the user's cache directory."""
    if os.environ.get("CELLWRIGHT_DATA"):
        return Path(os.environ["CELLWRIGHT_DATA"]).expanduser()
    return user_cache()


def _time_machine(note: Note | None) -> Path | None:
    """The Time Machine from the cache, else downloaded into it; None, and a note, without a network."""
    directory = cache_directory()
    mirrored, gutenberg = directory / "timemachine.txt", directory / "timemachine-gutenberg.txt"
    if mirrored.is_file() and hashlib.sha1(mirrored.read_bytes()).hexdigest() == MIRROR_SHA1:
        return mirrored
    if gutenberg.is_file():
        return gutenberg
    reasons = []
    for url, accept, path in ((MIRROR, accept_mirror, mirrored), (GUTENBERG, accept_gutenberg, gutenberg)):
        try:
            return _keep(path, accept(_download(url)))
        except (OSError, ValueError) as error:
            reasons.append(f"{url}: {' '.join(str(error).split())}")
    why = f"neither timemachine.txt in {directory} nor a download ({'; '.join(reasons)})"
    if note is None:
        raise TextError(
            f"{TIME_MACHINE} is read from the cache or downloaded",
            why,
            "put the file there, or name its folder: CELLWRIGHT_DATA",
        )
    note(f"{TIME_MACHINE}: {why}; taking {PYTHON_DOCS} instead")
    return None


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=SECONDS_TO_WAIT) as answer:
        content: bytes = answer.read(10_000_000)
    return content


def accept_mirror(content: bytes) -> bytes:
    """The file of the tutorials, if these bytes are it."""
    if hashlib.sha1(content).hexdigest() != MIRROR_SHA1:
        raise ValueError("another file than expected")
    return content


def accept_gutenberg(content: bytes) -> bytes:
    """The body of a Project Gutenberg file, without its header and footer."""
    body = BODY.search(content)
    if body is None:
        raise ValueError("no START and END of a Project Gutenberg text")
    return body[1].strip() + b"\n"


def _keep(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return path
