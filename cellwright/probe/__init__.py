"""6. Look inside: what a layer is made of, and how long it remembers."""

from cellwright.probe.parameters import parameter_table as parameter_table
from cellwright.probe.solve import Learning as Learning
from cellwright.probe.solve import Trial as Trial
from cellwright.probe.solve import solve as solve
from cellwright.probe.tasks import TASKS as TASKS
from cellwright.probe.tasks import find_task as find_task
from cellwright.probe.trials import summary as summary
from cellwright.probe.trials import trials as trials
