"""The cells that come with Cellwright, by the name the command line gives them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cellwright.cells.cell import Cell
from cellwright.cells.library.gru import GRU as GRU
from cellwright.cells.library.lstm import LSTM as LSTM
from cellwright.cells.library.rnn import RNN as RNN

LIBRARY: dict[str, Callable[[int, int], Cell]] = {
    "rnn": RNN,
    "rnn-relu": partial(RNN, nonlinearity="relu"),
    "gru": GRU,
    "gru-reset-before": partial(GRU, reset_after=False),
    "lstm": LSTM,
}
