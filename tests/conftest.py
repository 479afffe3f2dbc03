"""A stricter world than users': every random choice seeded, no cache of the user's, no network."""

import atexit
import os
import shutil
import tempfile

import pytest
import torch

if "CELLWRIGHT_CACHE" not in os.environ:  # what tests compile is kept for the session only, by this and other processes
    os.environ["CELLWRIGHT_CACHE"] = tempfile.mkdtemp(prefix="cellwright-tests-")
    atexit.register(shutil.rmtree, os.environ["CELLWRIGHT_CACHE"], ignore_errors=True)

if not torch.cuda.is_available():  # kernels for a GPU then run in Triton's interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")


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
