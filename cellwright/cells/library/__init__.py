"""The cells that come with Cellwright: a file is a family and ends with its cells by name, the table `CELLS`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from cellwright.cells.cell import Cell
from cellwright.cells.library.gru import GRU as GRU
from cellwright.cells.library.lstm import LSTM as LSTM
from cellwright.cells.library.rnn import RNN as RNN

FIRST = ("rnn", "gru", "lstm")  # of the families in every list
FAMILIES = tuple(
    importlib.import_module(f"{__name__}.{name}")
    for name in (*FIRST, *sorted({found.name for found in pkgutil.iter_modules(__path__)} - set(FIRST)))
)
LIBRARY: dict[str, Callable[[int, int], Cell]] = {
    name: made for family in FAMILIES for name, made in family.CELLS.items()
}
CLASSES: dict[str, type[Cell]] = {
    name: found
    for family in FAMILIES
    for name, found in vars(family).items()
    if isinstance(found, type) and issubclass(found, Cell) and found.__module__ == family.__name__
}
