"""Split: what is computed before the loop, in it, in the loop backward and after it, by what it depends on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cellwright.program.graph import GRAD, STATE, Graph, is_elementwise, is_small_product
from cellwright.step.atoms import LEAVES
from cellwright.step.ops import OPS

STAGES = ("before", "forward", "backward", "after")
TIMED = STAGES[1:3]  # step by step
EARLY = STAGES[:2]  # what a forward run goes through


@dataclass
class Split:
    """The atoms that each stage computes, and those that must lie in memory for later stages."""

    compute: dict[str, list[int]] = field(default_factory=dict)
    hoisted: set[int] = field(default_factory=set)  # made before the loop, read in it
    kept: set[int] = field(default_factory=set)  # made before or in the loop, read in the backward one
    deferred: set[int] = field(default_factory=set)  # made in the backward loop, read after it


def split(graph: Graph) -> Split:
    """Assign every atom to its stages.

    What does not depend on the state is hoisted; what depends on the incoming gradient and does not lead to
    the gradient of a state is deferred, from its first product on; all else loops. Cheap arithmetic is done
    again where it is needed rather than kept.
    """
    depends = graph.depends()
    found = Split()
    states = set(graph.used(*(name for name in graph.outputs if name.startswith("state"))))
    made = [atom for atom in range(len(graph.atoms)) if graph.atoms[atom].op not in LEAVES]
    first = [atom for atom in made if not depends[atom] & GRAD]
    looped = {atom for atom in first if depends[atom] & STATE}
    wanted = set(graph.used("y", *(name for name in graph.outputs if name.startswith("state"))))
    for atom in sorted(graph.ancestors(wanted) & looped) + sorted(wanted):
        reads = {arg.atom for arg in graph.atoms[atom].args} if atom in looped else {atom}
        found.hoisted |= {a for a in reads if a in set(first) - looped and not _again(graph, a, set())}
    zeros = _zeros(graph, depends)
    _keep(graph, depends, states | zeros, found)
    later = {atom for atom in range(len(graph.atoms)) if depends[atom] & GRAD and graph.atoms[atom].op not in LEAVES}
    later |= zeros
    inside = _inside(graph, later, depends)
    outside = later - inside
    for atom in outside:
        found.deferred |= {arg.atom for arg in graph.atoms[atom].args if arg.atom in inside}
    memory = {atom for atom in range(len(graph.atoms)) if graph.atoms[atom].op in LEAVES}
    early = {atom for atom in found.hoisted | found.kept if not depends[atom] & STATE}
    found.compute["before"] = demand(graph, early, memory)
    memory |= early
    found.compute["forward"] = demand(graph, wanted | (found.kept - early), memory)
    memory |= found.kept | states
    ends = {atom for atom in graph.used() if atom in inside}
    found.compute["backward"] = demand(graph, ends | found.deferred, memory)
    memory |= found.deferred | (set(graph.used("dx")) & inside)
    found.compute["after"] = demand(graph, {atom for atom in graph.used() if atom in outside}, memory)
    late = [arg.atom for stage in STAGES[2:] for atom in found.compute[stage] for arg in graph.atoms[atom].args]
    found.kept |= found.hoisted & set(late)
    return found


def demand(graph: Graph, wanted: Iterable[int], memory: set[int]) -> list[int]:
    """What must be computed to have the wanted atoms, given those in memory; in order."""
    found: set[int] = set()
    stack = [atom for atom in wanted if atom not in memory]
    while stack:
        atom = stack.pop()
        if atom not in found:
            found.add(atom)
            stack += [arg.atom for arg in graph.atoms[atom].args if arg.atom not in memory]
    return sorted(found)


def _zeros(graph: Graph, depends: list[int]) -> set[int]:
    """What is written among gradients and does not depend on any."""
    found: set[int] = set()
    for name in graph.outputs:
        atoms = set(graph.used(name))
        product = name.startswith(("left", "right")) and any(depends[atom] & GRAD for atom in atoms)
        if product or name == "dx" or name.startswith("dstate"):
            found |= {atom for atom in atoms if not depends[atom] & GRAD and graph.atoms[atom].op not in LEAVES}
    return found


def _inside(graph: Graph, later: set[int], depends: list[int]) -> set[int]:
    ends = set(graph.used(*(name for name in graph.outputs if name.startswith("dstate"))))
    inside = graph.ancestors(ends) & later
    for atom in sorted(later - inside):
        reads = [arg.atom for arg in graph.atoms[atom].args if depends[arg.atom] & GRAD]
        if graph.atoms[atom].op != "mm" and all(a in inside or graph.atoms[a].op in LEAVES for a in reads):
            inside.add(atom)
    return inside


def _keep(graph: Graph, depends: list[int], states: set[int], found: Split) -> None:
    operands = set(graph.used(*(name for name in graph.outputs if name.startswith(("left", "right")))))
    found.kept = {a for a in operands if not depends[a] & GRAD and graph.atoms[a].op not in LEAVES} - states
    reads = {arg.atom for a, atom in enumerate(graph.atoms) if depends[a] & GRAD for arg in atom.args}
    for atom in sorted(a for a in reads if not depends[a] & GRAD):
        if not _again(graph, atom, found.kept | found.hoisted | states, states):
            found.kept.add(atom)


def _again(graph: Graph, atom: int, memory: set[int], states: set[int] | None = None) -> bool:
    """Whether an atom is had from memory by cheap arithmetic; backward (given states) also from a state by any one
    operation, forward also by a small product."""
    made = graph.atoms[atom]
    if atom in memory or made.op in LEAVES:
        return True
    if is_small_product(graph, atom):
        return states is None
    if not is_elementwise(made):
        return False
    if OPS[made.op].costly:
        return all(arg.atom in (states or ()) or graph.atoms[arg.atom].op in LEAVES for arg in made.args)
    return all(_again(graph, arg.atom, memory, states) for arg in made.args)
