"""Cellwright: write a recurrent cell as its equations, train it fast, look inside, ship it."""

from cellwright import cells as cells
from cellwright import errors as errors
from cellwright.cells import Cell as Cell
from cellwright.cells import adapt as adapt
from cellwright.layers import Recurrent as Recurrent
from cellwright.probe import parameter_table as parameter_table

__version__ = "0.1.0"
__all__ = ["Cell", "Recurrent", "__version__", "adapt", "cells", "errors", "parameter_table"]
