"""2. One time step of a cell, and the plain loop that defines what a layer computes."""

from cellwright.step.reference import unroll as unroll
