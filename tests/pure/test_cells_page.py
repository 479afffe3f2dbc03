"""docs/cells.md says what the cells say: each entry is what docs/write_cells.py makes of its class today."""

import runpy
from pathlib import Path

import pytest

import cellwright
from cellwright.cells import LIBRARY

DOCS = Path(cellwright.__file__).parent.parent / "docs"
PAGE = (DOCS / "cells.md").read_text(encoding="utf-8")
entry = runpy.run_path(str(DOCS / "write_cells.py"))["entry"]


@pytest.mark.parametrize("name", LIBRARY)
def test_an_entry_is_as_its_class_has_it(name):
    assert "\n".join(entry(name)) in PAGE, "run python docs/write_cells.py"
