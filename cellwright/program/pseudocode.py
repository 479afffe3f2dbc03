"""Pseudocode: a program as text, pass by pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cellwright.program.equations import equation, identifiers, label, read_label
from cellwright.program.graph import Graph
from cellwright.program.loops import Loop, Product
from cellwright.program.places import Place

if TYPE_CHECKING:
    from cellwright.program.program import Program

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
    before the loop, for all T*B rows:
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
        left, right = _span(block.left, block.rows), _span(block.right, block.columns)
        lines.append(f"  {left}^T @ {right}")
    lines += [f"  sum of {names[atom]}" for atom in program.sums]
    return "\n".join(lines)


def _pass(program: Program, stage: str, loop: Loop, names: dict[int, str]) -> Iterator[str]:
    for product in loop.products:
        yield f"{', '.join(names[slot] for slot in product.slots)} = {_product(program.graph, product, names)}"
    last = _written_out(program, stage, loop)
    for atom in (*loop.scalars, *loop.atoms):
        if atom in last or atom in program.graph.names:
            yield f"{names[atom]} = {equation(program.graph, atom, loop, names)}{_kept(program, stage, atom)}"
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
    return "  -> " + ", ".join(_span(place, width) for place in places) if places else ""


def _span(place: Place, width: int) -> str:
    when = {"old": "[t-1]", "new": "[t]", "": ""}[place.when]
    return f"{place.buffer}{when}[:, {place.column}:{place.column + width}]"


def _product(graph: Graph, product: Product, names: dict[int, str]) -> str:
    weights = [graph.atoms[slot].detail for slot in product.slots]
    terms = []
    for place, arg in enumerate(product.inputs):
        stacked = " | ".join(f"w{weight[place].value}" for weight in weights)
        terms.append(f"{read_label(graph, arg, names)} @ ({stacked})")
    return " + ".join(terms)
