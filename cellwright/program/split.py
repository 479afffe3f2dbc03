"""Split: what is computed before the loop, in it, in the loop backward and after it, by what it depends on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cellwright.program.cut import least
from cellwright.program.graph import GRAD, STATE, Graph, is_elementwise, is_small_product
from cellwright.step.atoms import LEAVES
from cellwright.step.ops import OPS

STAGES = ("before", "forward", "backward", "after")
TIMED = STAGES[1:3]  # step by step
EARLY = STAGES[:2]  # what a forward run goes through
MOST_PRODUCTS = 8  # of a step whose small products are made in the loop


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
    states = set(graph.used(*(name for name in graph.outputs if name.startswith("state"))))
    wanted = set(graph.used("y", *(name for name in graph.outputs if name.startswith("state"))))
    zeros, light = _zeros(graph, depends), _light(graph, depends, wanted)
    found = _stored(graph, depends, _ready(graph, depends, wanted) - light, states | zeros)
    later = {atom for atom in range(len(graph.atoms)) if depends[atom] & GRAD and graph.atoms[atom].op not in LEAVES}
    later |= zeros
    inside = _inside(graph, later, depends)
    outside = later - inside
    for atom in outside:
        found.deferred |= {arg.atom for arg in graph.atoms[atom].args if arg.atom in inside}
    memory = {atom for atom in range(len(graph.atoms)) if graph.atoms[atom].op in LEAVES}
    early = {atom for atom in found.hoisted | found.kept if not depends[atom] & STATE and atom not in light}
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


def _stored(graph: Graph, depends: list[int], ready: set[int], states: set[int]) -> Split:
    """What is hoisted, for what must be ready, and what is kept, whichever is settled first to take less memory."""
    read = _read_back(graph, depends)
    operands = {atom for name in graph.outputs if name.startswith(("left", "right")) for atom in graph.used(name)}
    operands = {atom for atom in operands if not depends[atom] & GRAD} - states
    operands = {atom for atom in operands if graph.atoms[atom].op not in LEAVES}
    first = Split()
    first.hoisted = _least(graph, ready, set())
    first.kept = operands | _least(graph, read, operands | first.hoisted | states, states)
    other = Split()
    other.kept = operands | _least(graph, read, operands | states, states)
    other.hoisted = _least(graph, ready, {atom for atom in other.kept if not depends[atom] & STATE})
    return min(first, other, key=lambda split: sum(graph.atoms[atom].width for atom in split.hoisted | split.kept))


def _ready(graph: Graph, depends: list[int], wanted: set[int]) -> set[int]:
    """What loops forward read, or give, that does not depend on a state."""
    made = {a for a, atom in enumerate(graph.atoms) if not depends[a] & GRAD and atom.op not in LEAVES}
    looped = {atom for atom in made if depends[atom] & STATE}
    read = {arg.atom for atom in graph.ancestors(wanted) & looped for arg in graph.atoms[atom].args}
    return (read | wanted) & (made - looped)


def _light(graph: Graph, depends: list[int], wanted: set[int]) -> set[int]:
    """What takes no more than cheap arithmetic and small products of x: beside a product of the state it costs a loop
    less than what was made before would, which it would have to fetch. But sums of all have to fit in registers."""
    products = [atom for atom in graph.ancestors(wanted) if graph.atoms[atom].op == "mm"]
    if len(products) > MOST_PRODUCTS or not any(depends[atom] & STATE for atom in products):
        return set()
    found: set[int] = set()
    for place, atom in enumerate(graph.atoms):
        made = (is_elementwise(atom) and not OPS[atom.op].costly) or is_small_product(graph, place)
        if made and all(a.atom in found or graph.atoms[a.atom].op in LEAVES for a in atom.args):
            found.add(place)
    return {atom for atom in found if not depends[atom] & (STATE | GRAD)}


def _read_back(graph: Graph, depends: list[int]) -> set[int]:
    """What loops backward read that does not depend on the incoming gradient."""
    read = {arg.atom for a, atom in enumerate(graph.atoms) if depends[a] & GRAD for arg in atom.args}
    return {atom for atom in read if not depends[atom] & GRAD}


def _least(graph: Graph, wanted: set[int], memory: set[int], states: set[int] | None = None) -> set[int]:
    """Of least width, what to store so that cheap arithmetic gives all that is wanted; backward (given states) also
    any one operation on a state, forward also a small product."""

    def there(atom: int) -> bool:
        return atom in memory or graph.atoms[atom].op in LEAVES

    def cheap(atom: int) -> bool:
        made = graph.atoms[atom]
        if is_small_product(graph, atom):
            return states is None
        if not is_elementwise(made) or not OPS[made.op].costly:
            return is_elementwise(made)
        return all(arg.atom in (states or ()) or graph.atoms[arg.atom].op in LEAVES for arg in made.args)

    return least(graph, sorted(wanted), there, cheap)
