"""4. What runs a cell over a sequence: the backends, and the choice between them."""

from cellwright.kernels.choose import BACKENDS as BACKENDS
from cellwright.kernels.choose import Choice as Choice
from cellwright.kernels.choose import beginning as beginning
from cellwright.kernels.choose import choose as choose
from cellwright.kernels.choose import run_cell as run_cell
from cellwright.kernels.choose import run_weights as run_weights
from cellwright.kernels.choose import run_with as run_with
from cellwright.kernels.stepper import Stepper as Stepper
from cellwright.kernels.stepper import stepper as stepper
