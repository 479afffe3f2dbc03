"""6. Look inside: what a layer is made of, and what happens in it."""

from cellwright.probe.parameters import parameter_table as parameter_table
from cellwright.probe.record import Recording as Recording
from cellwright.probe.record import record as record
