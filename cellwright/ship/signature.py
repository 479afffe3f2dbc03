"""Signature: what goes into a model and comes out, by name, with shapes in which T and B are free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cellwright.errors import ExportError
from cellwright.layers import Recurrent
from cellwright.ship.stack import layer_of, stack_of
from cellwright.text.model import LanguageModel


class Value(NamedTuple):
    """A tensor by its name; its shape holds numbers, and the letters T and B."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(map(str, self.shape))}) {str(self.dtype).removeprefix('torch.')}"


class Signature(NamedTuple):
    """Inputs (x or tokens, the first states, lengths) and outputs (y or logits, the last states) of a model."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    tokens: int = 0
    """How many different tokens there are; 0 for a layer."""

    def draw(self, steps: int, batch: int) -> list[Tensor]:
        """Random inputs for T = steps and B = batch, the same every time."""
        sizes, generator = {"T": steps, "B": batch}, torch.Generator().manual_seed(steps)
        found = []
        for value in self.inputs:
            shape = [sizes[size] if isinstance(size, str) else size for size in value.shape]
            if value.dtype == torch.int64:  # tokens from 0, lengths from 1
                low, high = (1, steps + 1) if value.name == "lengths" else (0, self.tokens)
                found.append(torch.randint(low, high, shape, generator=generator))
            else:  # some cells want states that are not negative
                draw = torch.randn if value.name == "x" else torch.rand
                found.append(draw(shape, generator=generator, dtype=value.dtype))
        return found

    def call(self, model: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
        """What the model itself gives for these inputs."""
        given = {value.name: tensor for value, tensor in zip(self.inputs, inputs, strict=True)}
        first, lengths, states = given.pop(self.inputs[0].name), given.pop("lengths", None), tuple(given.values())
        state = states if len(states) > 1 else states[0] if states else None
        y, last = model(first, state) if lengths is None else _ragged(model, first, state, lengths)
        return [y, *(last if isinstance(last, tuple) else (last,))]


def _ragged(layer: Any, x: Tensor, state: Any, lengths: Tensor) -> Any:
    """A layer on padded x; those with torch.nn's names take it packed."""
    if isinstance(layer, Recurrent):
        return layer(x, state, lengths)
    pack, pad = nn.utils.rnn.pack_padded_sequence, nn.utils.rnn.pad_packed_sequence
    first, steps = layer.batch_first, x.shape[1 if layer.batch_first else 0]
    y, last = layer(pack(x, lengths, first, enforce_sorted=False), state)
    return pad(y, first, total_length=steps)[0], last


def signature_of(model: nn.Module, lengths: bool = False, state: bool = True) -> Signature:
    """What goes into a model and comes out.

    Args:
        model: a layer or a language model.
        lengths: whether the lengths of the sequences go in.
        state: whether the first states go in.

    Raises:
        ExportError: a language model with lengths.
    """
    stack = stack_of(layer_of(model))
    cell, places = stack.cells[0], ("B", "T") if stack.batch_first else ("T", "B")
    shapes = {name: (len(stack.cells), "B", size) for name, size in zip(cell.state, cell.state_sizes, strict=True)}
    states = [Value(f"{name}_0", stack.dtype, shape) for name, shape in shapes.items() if state]
    ends = [Value(f"{name}_n", stack.dtype, shape) for name, shape in shapes.items()]
    if isinstance(model, LanguageModel):
        if lengths:
            rule = "a language model reads texts that are all as long"
            raise ExportError(rule, "lengths=True", "leave it out, or export its layer, model.recurrent")
        tokens, logits = Value("tokens", torch.int64, places), model.output.out_features
        scores = Value("logits", stack.dtype, (*places, logits))
        return Signature((tokens, *states), (scores, *ends), logits)
    x = Value("x", stack.dtype, (*places, cell.input_size))
    y = Value("y", stack.dtype, (*places, cell.output_size * stack.directions))
    counted = [Value("lengths", torch.int64, ("B",))] if lengths else []
    return Signature((x, *states, *counted), (y, *ends))
