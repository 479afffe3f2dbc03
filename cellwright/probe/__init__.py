"""6. Look inside: what a layer is made of, what happens in it, how far its gradients reach, how long it remembers."""

from cellwright.probe.behaviour import gate_behaviour as gate_behaviour
from cellwright.probe.drawing import draw as draw
from cellwright.probe.gradients import gradient_flow as gradient_flow
from cellwright.probe.parameters import parameter_table as parameter_table
from cellwright.probe.record import Recording as Recording
from cellwright.probe.record import record as record
from cellwright.probe.solve import Learning as Learning
from cellwright.probe.solve import Trial as Trial
from cellwright.probe.solve import solve as solve
from cellwright.probe.tasks import TASKS as TASKS
from cellwright.probe.tasks import find_task as find_task
from cellwright.probe.tracking import shaded as shaded
from cellwright.probe.tracking import track as track
from cellwright.probe.trials import summary as summary
from cellwright.probe.trials import trials as trials
