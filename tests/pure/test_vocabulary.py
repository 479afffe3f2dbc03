"""Text to ids and back, for every kind of token."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellwright.errors import TextError
from cellwright.text import bpe
from cellwright.text.corpus import KINDS
from cellwright.text.vocabulary import load_vocabulary
from cellwright.text.write import pieces

SENTENCE = "the time traveller (for so it will be convenient to speak of him) was expounding\n" * 3
UNICODE = "naïve café — ‘quoted’ \U0001f600 time " * 5

lossless = pytest.mark.parametrize("kind", ["char", "byte", "bpe"])


@lossless
@pytest.mark.parametrize("text", [SENTENCE, UNICODE])
def test_what_is_encoded_decodes_to_itself(kind, text):
    vocabulary = KINDS[kind].build([text], size=300)
    assert vocabulary.decode(vocabulary.ids(text)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_ids_do_not_depend_on_where_the_chunks_end(kind):
    vocabulary = KINDS[kind].build([SENTENCE], size=300)
    for cut in (1, 5, 40):
        parts = [SENTENCE[:cut], SENTENCE[cut:]]
        again = KINDS[kind].build(parts, size=300)
        assert again.tokens == vocabulary.tokens
        assert np.concatenate(list(vocabulary.encode(parts))).tolist() == vocabulary.ids(SENTENCE).tolist()


def test_bpe_cuts_long_texts_at_blanks_alike_whatever_the_chunks():
    text = SENTENCE * 10
    assert list(bpe._paragraphs([text], 50)) == list(bpe._paragraphs([text[:77], text[77:]], 50))
    assert "".join(bpe._paragraphs([text], 50)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_characters_of_the_tokens_add_up_to_the_text(kind):
    for text in (SENTENCE, UNICODE):
        vocabulary = KINDS[kind].build([text], size=300)
        counted = vocabulary.characters()[vocabulary.ids(text)].sum()
        expected = sum(len(word) + 1 for word in text.split()) if kind == "word" else len(text)
        assert counted == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_is_saved_as_json_and_read_back(kind, tmp_path):
    vocabulary = KINDS[kind].build([UNICODE], size=300)
    vocabulary.save(tmp_path / "vocabulary.json")
    again = load_vocabulary(tmp_path / "vocabulary.json", KINDS)
    assert type(again) is type(vocabulary)
    assert again.tokens == vocabulary.tokens
    assert again.ids(UNICODE).tolist() == vocabulary.ids(UNICODE).tolist()


def test_frequent_tokens_come_first_and_rare_ones_are_unknown():
    chars = KINDS["char"].build(["aaabbc"], min_frequency=2)
    assert chars.tokens == ["<unk>", "a", "b"]
    assert chars.ids("abcz").tolist() == [1, 2, 0, 0]
    assert chars.missing("abcza") == ["c", "z"]
    words = KINDS["word"].build(["so it was so"], min_frequency=2)
    assert words.tokens == ["<unk>", "so"]
    assert words.missing("so it") == ["it"]


@lossless
@given(text=st.text(st.sampled_from("ab é\U0001f600‘"), max_size=20))
def test_pieces_of_a_stream_are_whole_characters_and_add_up(kind, text):
    vocabulary = KINDS[kind].build([UNICODE + "ab é\U0001f600‘"], size=300)
    ids = [int(i) for i in vocabulary.ids(text)]
    parts = list(pieces(vocabulary, ids))
    assert "".join(parts) == text
    assert not any("\ufffd" in part for part in parts)


def test_bytes_that_are_no_character_do_not_block_the_stream():
    vocabulary = KINDS["byte"].build()
    assert "".join(pieces(vocabulary, [0xFF, 0xFF, 0xFF, 0xFF, 0x61, 0xE2])) == "\ufffd\ufffd\ufffd\ufffda\ufffd"


@pytest.mark.parametrize(
    "wrong", ["", "[]", '{"kind": "char"}', '{"kind": "morse", "tokens": ["."]}', '{"kind":"char","tokens":[1]}']
)
def test_what_is_no_vocabulary_is_refused(wrong, tmp_path):
    path = tmp_path / "vocabulary.json"
    path.write_text(wrong)
    with pytest.raises(TextError, match="holds a kind and a list of tokens"):
        load_vocabulary(path, KINDS)


def test_a_forged_tokenizer_is_refused(tmp_path):
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps({"kind": "bpe", "tokens": ["a"], "tokenizer": {"version": "1.0", "model": 3}}))
    with pytest.raises(TextError, match="holds a kind and a list of tokens"):
        load_vocabulary(path, KINDS)
