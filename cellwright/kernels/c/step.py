"""Step: a compiled cell run one step at a time, all that a call needs made ready before."""

from __future__ import annotations

from array import array

import torch
from torch import Tensor

from cellwright.kernels.c.run import INFER, JOB, ONCE, PACKS, TURN, Fused, readable
from cellwright.kernels.gradients import Leaves

SMALL = 1 << 19  # multiply-adds of a step that one thread does sooner than it wakes another


class Step:
    """One step a call, on the weights as they were when this was made; the state stays in place.

    Args:
        fused: the compiled cell.
        leaves: its weights by name.
        first: the state to begin with, each (B, H).
    """

    def __init__(self, fused: Fused, leaves: dict[str, Tensor], first: tuple[Tensor, ...]) -> None:
        self.fused, self.first = fused, tuple(s.contiguous() for s in first)
        self.state = tuple(s.clone() for s in self.first)
        B = self.state[0].shape[0]
        team = 1 if fused.code.packing.size * B < SMALL else torch.get_num_threads()
        program = fused.program
        like = self.state[0].new_empty(1, B, program.input_size)
        leaves = Leaves((name, leaf.clone()) for name, leaf in leaves.items())
        layout, steps = fused.even(1, B, team, keep=False)
        self._saved = fused.saved(layout, leaves, steps)
        self._argument: array[int] = self._saved.argument
        self._rows = like.new_empty(2 * B * program.widths[0])  # of the first state, where that is y
        self._saved.held = (leaves, steps, self._rows)
        self._argument[JOB] = INFER
        self._x = fused.at("x")
        self._y = fused.at("y") if program.has_y else 0
        if not program.has_y:
            self._argument[fused.at("state0")] = self._rows.data_ptr()
        for place, now in enumerate(self.state):
            rows = self._argument[fused.at(f"state{place}")]
            self._saved.states.extend((program.widths[place], 0, rows, 0, now.data_ptr(), now.data_ptr(), 0, 0, 0))
        self._packed = False

    def __call__(self, x: Tensor) -> Tensor:
        """y (B, O) of x (B, I)."""
        x = readable(x)
        argument, program = self._argument, self.fused.program
        argument[self._x] = x.data_ptr()
        y = None
        if program.has_y:
            y = x.new_empty(x.shape[0], program.output_size)
            argument[self._y] = y.data_ptr()
        argument[TURN] ^= 1
        self.fused.launch(self._saved)
        if not self._packed:  # from now on
            self._packed, argument[ONCE], argument[PACKS] = True, 0, 0
        return self.state[0].clone() if y is None else y
