"""3. A whole sequence as loops and buffers: what is hoisted, looped forward, looped backward, deferred."""

from cellwright.program.plan import plan as plan
from cellwright.program.program import Program as Program
