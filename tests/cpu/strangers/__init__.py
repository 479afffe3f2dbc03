"""Recurrent cells as strangers write them: plain nn.Modules, cell(x, state), each in a style of its own."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.cpu.strangers import classics, grus, linear, lstms, normed, others, timed
from tests.cpu.strangers.entry import Entry

State = Tensor | tuple[Tensor, ...]
PARTS = (classics, lstms, grus, linear, timed, normed, others)
ENTRIES: dict[str, Entry] = {name: entry for part in PARTS for name, entry in part.CELLS.items()}
STRANGERS: dict[str, Callable[[int, int], nn.Module]] = {name: entry.build for name, entry in ENTRIES.items()}
POSITIVE = {"slstm": (2,), "rwkv": (1,)}  # states that are divided by, and at least 0 whenever the cell made them


def widths(name: str, hidden: int) -> tuple[int, ...]:
    """How wide each state of a cell is."""
    return ENTRIES[name].widths(hidden)


def output_width(name: str, hidden: int) -> int:
    """How wide the output of a cell is: its first state, where it has no other."""
    output = ENTRIES[name].output
    return output(hidden) if output else widths(name, hidden)[0]


def first_states(name: str, batch: int, hidden: int, dtype: torch.dtype) -> list[Tensor]:
    """Random states (B, width) to begin with."""
    states = [torch.randn(batch, width, dtype=dtype) for width in widths(name, hidden)]
    return [s.abs() + 0.5 if k in POSITIVE.get(name, ()) else s for k, s in enumerate(states)]


def draw_weights(module: nn.Module) -> nn.Module:
    """Give every parameter random values, none of which is equal to another."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.5)
    return module


def step_stranger(module: nn.Module, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One step: the output, and the states as a tuple."""
    result = module(x, state if len(state) > 1 else state[0])
    if isinstance(result, Tensor):
        return result, (result,)
    if len(result) == len(state) and all(isinstance(part, Tensor) for part in result):
        return result[0], tuple(result)
    y, new = result
    return y, (new,) if isinstance(new, Tensor) else tuple(new)


def unroll_stranger(module: nn.Module, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The plain loop: x (T, B, I) and states (B, width) to y (T, B, O) and the last states."""
    outputs = []
    for x_t in x:  # (B, I)
        y_t, state = step_stranger(module, x_t, state)
        outputs.append(y_t)
    return torch.stack(outputs), state
