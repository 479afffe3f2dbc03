"""Build: generated source as a module in a file, which is what Triton compiles functions out of."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from functools import cache
from types import ModuleType

from cellwright.cache import own_folder, private_folder


@cache
def module(text: str) -> ModuleType:
    """The module with this source. Triton itself keeps what it compiled from process to process."""
    name = f"cellwright_{hashlib.sha256(text.encode()).hexdigest()[:24]}"
    path = own_folder(private_folder(os.getpid())) / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made
