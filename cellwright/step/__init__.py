"""2. One time step of a cell, and the plain loop that defines what a layer computes."""

from cellwright.step.capture import Step as Step
from cellwright.step.capture import capture as capture
from cellwright.step.ragged import Ragged as Ragged
from cellwright.step.ragged import batch_size as batch_size
from cellwright.step.reference import unroll as unroll
from cellwright.step.refused import Refused as Refused
