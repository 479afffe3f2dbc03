"""A stricter world than users': every random choice seeded, no cache of the user's, no network."""

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's cache, and none downloads."""
    monkeypatch.setenv("CELLWRIGHT_DATA", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr("cellwright.text.sources._download", _no_network)


def _no_network(url):
    raise OSError(f"tests do not download {url}")
