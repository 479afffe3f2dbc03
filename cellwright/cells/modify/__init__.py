"""Modifiers, each from a cell to a cell: noise, norms, connections around it, a learned first state."""

from cellwright.cells.modify.around import Highway as Highway
from cellwright.cells.modify.around import LearnedState as LearnedState
from cellwright.cells.modify.around import Residual as Residual
from cellwright.cells.modify.modified import Modified as Modified
from cellwright.cells.modify.noise import RecurrentDropout as RecurrentDropout
from cellwright.cells.modify.noise import Zoneout as Zoneout
from cellwright.cells.modify.norms import Normed as Normed
from cellwright.cells.modify.weights import Heads as Heads
from cellwright.cells.modify.weights import WeightDrop as WeightDrop
from cellwright.cells.modify.weights import WeightNorm as WeightNorm
