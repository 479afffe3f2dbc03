"""Bytes to clean characters: the tutorials' cleaning, any chunking, and texts that are none."""

import hashlib
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellwright.errors import TextError
from cellwright.text import reading
from cellwright.text.reading import clean, read
from cellwright.text.sources import Source, find_sources

any_text = st.text(st.sampled_from("aZé \n\r.,1ß\U0001f600ſK"), max_size=40)


def source(content, name="notes.txt"):
    return Source(name, lambda: io.BytesIO(content))


@given(st.lists(any_text, max_size=6))
def test_letters_is_what_the_tutorials_do_to_the_whole_text(chunks):
    whole = "".join(chunks)
    assert "".join(clean(chunks, "letters")) == re.sub("[^A-Za-z]+", " ", whole).lower()


@given(st.lists(any_text, max_size=6))
def test_no_cleaning_only_unifies_line_ends(chunks):
    whole = "".join(chunks)
    assert "".join(clean(chunks, "none")) == whole.replace("\r\n", "\n").replace("\r", "\n")


@given(st.text(min_size=1).filter(lambda text: "\0" not in text and not text.startswith("\ufeff")), st.integers(1, 5))
def test_characters_do_not_depend_on_where_the_bytes_are_cut(text, size):
    old, reading.CHUNK_BYTES = reading.CHUNK_BYTES, size
    try:
        found = "".join(read([source(text.encode())], "none"))
    finally:
        reading.CHUNK_BYTES = old
    assert found == text.replace("\r\n", "\n").replace("\r", "\n")


def test_a_byte_order_mark_is_no_character_and_texts_are_kept_apart():
    digest = hashlib.sha256()
    assert "".join(read([source(b"\xef\xbb\xbfab"), source(b"cd")], "none", digest)) == "ab\ncd"
    assert digest.hexdigest() == hashlib.sha256(b"\xef\xbb\xbfabcd").hexdigest()


NO_TEXTS = [
    (b"", "a text holds at least a few thousand characters; got notes.txt, which is empty"),
    (b"abc\0def", "a text is UTF-8; got notes.txt with a zero byte at offset 3: a binary file; convert it"),
    (b"caf\xe9 au lait", "a text is UTF-8; got notes.txt with byte 0xe9 at offset 3; convert it"),
    (b"abc\xc3", "a text is UTF-8; got notes.txt with byte 0xc3 at offset 3; convert it"),
]


@pytest.mark.parametrize("size", [1, 3, 1 << 20])
@pytest.mark.parametrize(("content", "words"), NO_TEXTS)
def test_what_is_no_text_is_named_with_its_place(content, words, size, monkeypatch):
    monkeypatch.setattr(reading, "CHUNK_BYTES", size)
    with pytest.raises(TextError) as caught:
        "".join(read([source(content)], "letters"))
    assert words in str(caught.value)


def test_python_docs_are_english():
    text = "".join(read(find_sources(["python-docs"]), "letters"))
    assert len(text) > 300_000
    assert text.count(" the ") > 3_000
