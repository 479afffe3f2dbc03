"""Where The Time Machine comes from: the cache, the mirror by its checksum, Project Gutenberg, or a stand-in."""

import hashlib

import pytest

from cellwright.errors import TextError
from cellwright.text import sources
from cellwright.text.sources import cache_directory, find_sources

MIRRORED = b"The Time Machine, by H. G. Wells\n"
GUTENBERG = (
    b"Header\r\n*** START OF THE PROJECT GUTENBERG EBOOK ***\r\nThe body.\r\n*** END OF THE PROJECT ***\r\nLicence"
)


@pytest.fixture
def web(monkeypatch):
    """A small internet: what each address answers."""
    answers = {}

    def download(url):
        if url not in answers:
            raise OSError("no route to host")
        return answers[url]

    monkeypatch.setattr(sources, "_download", download)
    monkeypatch.setattr(sources, "MIRROR_SHA1", hashlib.sha1(MIRRORED).hexdigest())
    return answers


def content(found):
    with found[0].open() as file:
        return file.read()


def test_the_mirror_is_kept_in_the_cache(web):
    web[sources.MIRROR] = MIRRORED
    assert content(find_sources(["time-machine"])) == MIRRORED
    web.clear()
    assert content(find_sources(["time-machine"])) == MIRRORED
    assert (cache_directory() / "timemachine.txt").read_bytes() == MIRRORED


def test_another_file_than_expected_is_not_taken(web):
    web[sources.MIRROR] = b"<html>captive portal</html>"
    web[sources.GUTENBERG] = GUTENBERG
    assert content(find_sources(["time-machine"])) == b"The body.\n"
    assert not (cache_directory() / "timemachine.txt").exists()
    web.clear()
    assert content(find_sources(["time-machine"])) == b"The body.\n"


def test_without_a_network_one_line_says_so_and_python_docs_stand_in(web):
    web[sources.GUTENBERG] = b"no markers"
    said = []
    assert [found.name for found in find_sources(["time-machine"], said.append)] == ["python-docs"]
    assert len(said) == 1
    assert "no route to host" in said[0]
    assert said[0].endswith("taking python-docs instead")
    assert "\n" not in said[0]


def test_where_nothing_may_stand_in_it_is_an_error(web):
    with pytest.raises(TextError, match="time-machine is read from the cache or downloaded"):
        find_sources(["time-machine"])


def test_paths_that_are_no_files(tmp_path):
    for path, words in [(tmp_path, "a text is a file; got the directory"), (tmp_path / "no.txt", "a file that exists")]:
        with pytest.raises(TextError, match=words):
            find_sources([str(path)])
    with pytest.raises(TextError, match="at least one text"):
        find_sources([])


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("CELLWRIGHT_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "cellwright"
