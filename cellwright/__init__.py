"""Cellwright: write a recurrent cell as its equations, train it fast, look inside, ship it."""

from cellwright import cells as cells
from cellwright import errors as errors
from cellwright.cells import Cell as Cell
from cellwright.cells import adapt as adapt
from cellwright.layers import GRU as GRU
from cellwright.layers import LSTM as LSTM
from cellwright.layers import RNN as RNN
from cellwright.layers import Recurrent as Recurrent
from cellwright.layers import detached as detached
from cellwright.layers import from_keras as from_keras
from cellwright.layers import from_torch as from_torch
from cellwright.layers import to_keras as to_keras
from cellwright.layers import to_torch as to_torch
from cellwright.layers import truncated as truncated
from cellwright.probe import draw as draw
from cellwright.probe import gate_behaviour as gate_behaviour
from cellwright.probe import gradient_flow as gradient_flow
from cellwright.probe import parameter_table as parameter_table
from cellwright.probe import record as record
from cellwright.probe import shaded as shaded
from cellwright.probe import track as track
from cellwright.ship import export_onnx as export_onnx
from cellwright.ship import export_pt2 as export_pt2

__version__ = "0.1.0"
__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Cell",
    "Recurrent",
    "__version__",
    "adapt",
    "cells",
    "detached",
    "draw",
    "errors",
    "export_onnx",
    "export_pt2",
    "from_keras",
    "from_torch",
    "gate_behaviour",
    "gradient_flow",
    "parameter_table",
    "record",
    "shaded",
    "to_keras",
    "to_torch",
    "track",
    "truncated",
]
