"""1. What a person writes: cells as equations, and the library of known ones."""

from typing import Any

from cellwright.cells.adapt import adapt as adapt
from cellwright.cells.cell import Cell as Cell
from cellwright.cells.cell import TorchForm as TorchForm
from cellwright.cells.feed import Feed as Feed
from cellwright.cells.find import cell_label as cell_label
from cellwright.cells.find import find_cell as find_cell
from cellwright.cells.init import initialise as initialise
from cellwright.cells.library import CLASSES as CLASSES
from cellwright.cells.library import GRU as GRU
from cellwright.cells.library import LIBRARY as LIBRARY
from cellwright.cells.library import LSTM as LSTM
from cellwright.cells.library import RNN as RNN
from cellwright.cells.modify import Heads as Heads
from cellwright.cells.modify import Highway as Highway
from cellwright.cells.modify import LearnedState as LearnedState
from cellwright.cells.modify import Modified as Modified
from cellwright.cells.modify import Normed as Normed
from cellwright.cells.modify import RecurrentDropout as RecurrentDropout
from cellwright.cells.modify import Residual as Residual
from cellwright.cells.modify import WeightDrop as WeightDrop
from cellwright.cells.modify import WeightNorm as WeightNorm
from cellwright.cells.modify import Zoneout as Zoneout


def __getattr__(name: str) -> Any:  # every class of the library, which its own file alone names
    if name in CLASSES:
        return CLASSES[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *CLASSES})
