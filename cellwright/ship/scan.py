"""Scan: any cell over a sequence as an ONNX Scan, whose body is the cell's step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cellwright.cells import Cell
from cellwright.ship.body import Body
from cellwright.ship.nodes import Nodes
from cellwright.step import Step


def scan(
    nodes: Nodes,
    cell: Cell,
    step: Step,
    weights: dict[str, Tensor],
    prefix: str,
    x: str,
    first: list[str],
    ragged: str,
    back: bool,
) -> tuple[str, list[str]]:
    """Add a cell that runs over a sequence, forward or back.

    Where sequences have lengths, a step beyond a sequence's end keeps the state and gives zeros: read backward, a
    sequence so begins at its own end.

    Args:
        nodes: the graph.
        cell: the cell.
        step: its step, traced.
        weights: its parameters and buffers by name.
        prefix: of the names of its weights and results.
        x: the input (T, B, I).
        first: the states before the first step, each (B, H).
        ragged: the lengths (B,); "" where all sequences are as long.
        back: whether it reads from the end.

    Returns:
        The output y (T, B, O), and the states after the last step, each (B, H).
    """
    body, read, given = _body(nodes, cell, step, weights, prefix, ragged)
    inputs = (x, *([_steps(nodes, x)] if ragged else []))
    names = tuple(f"{prefix}{name}" for name in (*(f"{name}_n" for name in cell.state), "y"))
    directions = {"scan_input_directions": [int(back)] * len(inputs), "scan_output_directions": [int(back)]}
    *last, y = nodes.calls(
        "Scan",
        (*first, *inputs),
        names,
        f"{cell}",
        body=body.graph(prefix.strip("."), read, given),
        num_scan_inputs=len(inputs),
        **directions,
    )
    return y, last


def _body(
    nodes: Nodes, cell: Cell, step: Step, weights: dict[str, Tensor], prefix: str, ragged: str
) -> tuple[Nodes, list[Any], list[Any]]:
    """The nodes of one step, what they read, and what they give: the new states and the output."""
    inner, sizes = Nodes(nodes.dtype, around=nodes), cell.state_sizes
    x, before = inner.name("x_t"), [inner.name(f"{name}_before") for name in cell.state]
    number = inner.name("t") if ragged else ""
    body = Body(inner, step, cell.state, weights, prefix, x, before)
    y = body.columns(step.states[0] if step.y is None else step.y, "y_t")
    new = [body.columns(refs, f"{name}_next") for name, refs in zip(cell.state, step.states, strict=True)]
    if ragged:
        runs = inner.call("Unsqueeze", inner.call("Less", number, ragged), inner.ints(1), name="runs")  # (B, 1)
        kept = [inner.call("Where", runs, one, old) for one, old in zip(new, before, strict=True)]
        new = [inner.give(one, inner.name(f"{name}_kept")) for name, one in zip(cell.state, kept, strict=True)]
        y = inner.call("Where", runs, y, inner.number(0), name="y_kept")
    rows = [inner.declare(name, nodes.dtype, ("B", size)) for name, size in zip(before, sizes, strict=True)]
    read = [*rows, inner.declare(x, nodes.dtype, ("B", cell.input_size))]
    read += [inner.declare(number, torch.int64, ())] if ragged else []
    given = [inner.declare(name, nodes.dtype, ("B", size)) for name, size in zip(new, sizes, strict=True)]
    return inner, read, [*given, inner.declare(y, nodes.dtype, ("B", cell.output_size))]


def _steps(nodes: Nodes, x: str) -> str:
    """The numbers of all steps (T,)."""
    shape = nodes.call("Shape", x, start=0, end=1)
    end = nodes.call("Squeeze", shape, nodes.ints(0))
    start, step = (nodes.constant(np.array(value), str(value)) for value in (0, 1))
    return nodes.call("Range", start, end, step, name="/steps")
