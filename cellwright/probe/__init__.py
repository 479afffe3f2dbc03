"""6. Look inside: what a layer is made of."""

from cellwright.probe.parameters import parameter_table as parameter_table
