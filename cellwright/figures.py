"""Figures: what all pictures have in common: colours, and matplotlib, where it is installed (extra `plot`)."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from cellwright.errors import MissingPackageError

# Okabe and Ito's colours, which people with any colour vision tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
HOW_TO_GET = 'pip install "cellwright[plot]"'


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def new_figure(width: float, height: float) -> Any:
    """An empty figure of so many inches.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        module = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise MissingPackageError("pictures need the package matplotlib", "a Python without it", HOW_TO_GET) from error
    return module.Figure(figsize=(width, height), layout="constrained")
