"""Program: a whole sequence as loops and buffers, in frozen values whose str() reads as pseudocode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from cellwright.program.equations import equation, identifiers, label, read_label, weight_label
from cellwright.program.graph import Graph
from cellwright.program.loops import Loop, Product
from cellwright.program.places import Block, Buffer, Part, Place
from cellwright.step.tape import Tape


@dataclass(frozen=True)
class Program:
    """All that a backend needs to run a cell over a sequence, forward and backward."""

    graph: Graph
    stages: dict[str, tuple[Loop, ...]]
    homes: dict[int, tuple[Place, ...]]
    locals: dict[str, dict[int, Place]]
    kept: frozenset[int]
    inferred: frozenset[int]  # atoms that lie in memory even where no gradient is wanted
    buffers: dict[str, Buffer]
    states: tuple[str, ...]
    sums: dict[int, int]  # atom: first column in the buffer of sums
    blocks: tuple[Block, ...]
    products: tuple[tuple[tuple[Part, ...], ...], ...]  # of every product, its parts in rows of columns
    turned: tuple[bool, ...]  # whether it is computed transposed
    batch_sums: tuple[tuple[tuple[int, int] | float, ...], ...]  # of every sum: (column, width) or a number
    tape: Tape
    gradients: dict[str, int]
    widths: tuple[int, ...]
    input_size: int
    output_size: int
    dtype: torch.dtype
    has_y: bool
    needs_x: bool

    def __str__(self) -> str:
        return pseudocode(self)


HEADS = {
    "before": "before the loop, for all T*B rows:",
    "forward": "for t = 0 ... T-1:",
    "backward": "for t = T-1 ... 0, the derivative:",
    "after": "after the loop, for all T*B rows:",
}


def pseudocode(program: Program) -> str:
    """The stages of a program, pass by pass: what is computed, where it lies, what is multiplied after the loop.

    >>> import torch
    >>> from cellwright.cells import RNN
    >>> from cellwright.program import plan
    >>> from cellwright.step import capture
    >>> print(str(plan(capture(RNN(3, 5), torch.float32), ("h",))).splitlines()[0])
    for t = 0 ... T-1:
    """
    names = identifiers(program.graph)
    lines: list[str] = []
    for stage, loops in program.stages.items():
        lines += [HEADS[stage]] if loops else []
        for loop in loops:
            lines.append(f"  for {loop.width} columns:")
            lines += [f"    {line}" for line in _pass(program, stage, loop, names)]
    lines += ["then, summed over all rows and steps:"] if program.blocks or program.sums else []
    for block in program.blocks:
        left, right = _span(program, block.left, block.rows), _span(program, block.right, block.columns)
        lines.append(f"  {left}^T @ {right}")
    lines += [f"  sum of {names[atom]}" for atom in program.sums]
    return "\n".join(lines)


def _pass(program: Program, stage: str, loop: Loop, names: dict[int, str]) -> Iterator[str]:
    for product in loop.products:
        yield f"{', '.join(names[slot] for slot in product.slots)} = {_product(program.graph, product, names)}"
    last = _written_out(program, stage, loop)
    for atom in (*loop.scalars, *loop.atoms):
        if atom in last or atom in program.graph.names:
            yield f"{names[atom]} = {equation(program.graph, atom, loop.inside, names)}{_kept(program, stage, atom)}"
    for atom in loop.reductions:
        yield f"{names[atom]} = {label(program.graph, atom, names)}"


def _written_out(program: Program, stage: str, loop: Loop) -> set[int]:
    """What a pass leaves behind: values with a place, or summed."""
    places = set(program.locals[stage]) | set(program.homes) | set(program.sums)
    return {atom for atom in loop.atoms if atom in places}


def _kept(program: Program, stage: str, atom: int) -> str:
    homes = program.homes.get(atom, ()) if stage != "backward" or atom not in program.kept else ()
    places = [*homes, *([program.locals[stage][atom]] if atom in program.locals[stage] else [])]
    width = program.graph.atoms[atom].width
    return "  -> " + ", ".join(_span(program, place, width) for place in places) if places else ""


def _span(program: Program, place: Place, width: int) -> str:
    when = {"old": "[t-1]", "new": "[t]", "": ""}[place.when]
    if place.buffer.startswith("dstate"):
        when = {"old": "", "new": "[t-1]", "": ""}[place.when]
    return f"{program.buffers[place.buffer].name}{when}[:, {place.column}:{place.column + width}]"


def _product(graph: Graph, product: Product, names: dict[int, str]) -> str:
    weights = [graph.atoms[slot].detail for slot in product.slots]
    terms = []
    for place, arg in enumerate(product.inputs):
        stacked = " | ".join(weight_label(graph, weight[place]) for weight in weights)
        terms.append(f"{read_label(graph, arg, names)} @ {f'({stacked})' if len(weights) > 1 else stacked}")
    return " + ".join(terms)
