"""Layers: a stack of cells in one or both directions as ONNX operators, and as Scans where there is none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cellwright.ship.nodes import Nodes
from cellwright.ship.operators import operate, operator_of
from cellwright.ship.scan import scan
from cellwright.ship.stack import Stack
from cellwright.ship.steps import Steps, step_of


def begin(nodes: Nodes, stack: Stack, place: int, x: str) -> str:
    """A first state (L*D, B, H) for x (T, B, I) that is no input: zeros, or what the layer learned."""
    count, size = len(stack.cells), stack.cells[0].state_sizes[place]
    value = stack.learned[place] if stack.learned else torch.zeros(count, size, dtype=stack.dtype)
    rows = nodes.call("Shape", x, start=1, end=2)
    shape = nodes.call("Concat", nodes.ints(count), rows, nodes.ints(size), axis=0)
    return nodes.call("Expand", nodes.constant(value.unsqueeze(1), f"/begin {place}"), shape)


def add_layers(nodes: Nodes, stack: Stack, x: str, first: Sequence[str], lengths: str) -> tuple[str, list[str]]:
    """Add layers on top of each other.

    Args:
        nodes: the graph.
        stack: their cells.
        x: the input (T, B, I).
        first: the first states, each (L*D, B, H).
        lengths: of the sequences (B,); "" where all are as long.

    Returns:
        The output (T, B, D*H), and the last states, each (L*D, B, H).

    Raises:
        ExportError: a step cannot be traced.
    """
    count, last = stack.directions, []
    known: Steps = {}
    for place in range(0, len(stack.cells), count):
        found = [operator_of(cell, stack.dtype) for cell in stack.cells[place : place + count]]
        prefix = f"layer {place // count}."
        weights, keys = [one[1] for one in found if one], {one[0] for one in found if one}
        if len(weights) == count and len(keys) == 1:
            before = [_part(nodes, state, place, count, len(stack.cells)) for state in first]
            x, ends = operate(nodes, keys.pop(), weights, prefix, x, before, lengths)
        else:
            x, ends = _scans(nodes, stack, known, place, prefix, x, first, lengths)
        last.append(ends)
    return x, [_joined(nodes, ends) for ends in zip(*last, strict=True)]


def _scans(
    nodes: Nodes, stack: Stack, known: Steps, place: int, prefix: str, x: str, first: Sequence[str], lengths: str
) -> tuple[str, tuple[str, ...]]:
    """A layer as one Scan for each direction: its output, and its last states, each (D, B, H)."""
    outputs, ends = [], []
    for direction in range(stack.directions):
        cell = place + direction
        step = step_of(stack.cells[cell], stack.dtype, known)
        number = nodes.constant(np.array(cell), str(cell))
        before = [nodes.call("Gather", state, number, axis=0) for state in first]  # (B, H) each
        name = prefix if stack.directions == 1 else f"{prefix}{('forward', 'backward')[direction]}."
        y, last = scan(nodes, stack.cells[cell], step, stack.weights[cell], name, x, before, lengths, bool(direction))
        outputs.append(y)
        ends.append([nodes.call("Unsqueeze", state, nodes.ints(0)) for state in last])
    y = outputs[0] if len(outputs) == 1 else nodes.call("Concat", *outputs, axis=-1)
    return y, tuple(_joined(nodes, states) for states in zip(*ends, strict=True))


def _part(nodes: Nodes, state: str, place: int, count: int, cells: int) -> str:
    """The states of one layer's cells."""
    if count == cells:
        return state
    return nodes.call("Slice", state, nodes.ints(place), nodes.ints(place + count), nodes.ints(0))


def _joined(nodes: Nodes, states: Sequence[str]) -> str:
    return states[0] if len(states) == 1 else nodes.call("Concat", *states, axis=0)
