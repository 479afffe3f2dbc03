"""Plan: Step -> Program, a pure function: split, loops, memory and the products after the loop."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cellwright.program.blocks import Operand, plan_blocks
from cellwright.program.graph import GRAD, Graph, aligned, build
from cellwright.program.loops import Loop, loops
from cellwright.program.memory import computed, local_places, reads, settle
from cellwright.program.places import Buffer, Place
from cellwright.program.program import Program
from cellwright.program.split import EARLY, STAGES, split
from cellwright.step.atoms import COLUMN_BITS, LEAVES, Atom, Read, Refs, segments
from cellwright.step.capture import Step
from cellwright.step.tape import TRANSPOSES


def plan(step: Step, states: tuple[str, ...], needs_x: bool = True) -> Program:
    """The program of a step: what is hoisted, looped, kept and deferred, and where it lies.

    Args:
        step: a captured step.
        states: names of its states, for the generated source.
        needs_x: whether the gradient of x is wanted.
    """
    graph = build(step, states, _outputs(step, needs_x))
    _set_zeros(graph, step.widths)
    taken: dict[int, list[Place]] = {}
    for name in list(graph.outputs):
        if name.startswith(("state", "dstate")) or name in ("y", "dx"):
            _claim(graph, name, taken)
    operands = [_operand(graph, name) for name in graph.outputs if name.startswith(("left", "right"))]
    sums = _sum_atoms(graph)
    places = split(graph)
    differentials = _order([o for o in operands if o.looped], operands)
    places.deferred -= set(differentials)
    early_homes = {**dict.fromkeys(places.hoisted | places.kept | set(differentials) | places.deferred, ()), **taken}
    stored = set(early_homes)
    summed = {atom for refs in sums for atom, _, _ in _atoms_of(refs)}
    stages = {stage: loops(graph, places.compute[stage], stored | summed) for stage in STAGES}
    memory = settle(graph, places, stages, differentials)
    homes = {atom: (*memory.homes.get(atom, []), *taken.get(atom, [])) for atom in stored}
    local = {stage: local_places(graph, stages[stage], homes) for stage in STAGES}
    columns: dict[int, int] = {}
    for atom in dict.fromkeys(atom for refs in sums for atom, _, _ in _atoms_of(refs)):
        if graph.atoms[atom].op != "const":
            columns[atom] = sum(graph.atoms[other].width for other in columns)
    turned = _turned(step)
    blocks, products = plan_blocks(graph, operands, homes, turned)
    buffers = _buffers(graph, step, states, memory.widths, local, sum(graph.atoms[a].width for a in columns))
    return Program(
        graph=graph,
        stages=stages,
        homes=homes,
        locals=local,
        kept=frozenset(places.kept),
        inferred=frozenset(_inferred(graph, stages)),
        buffers=buffers,
        states=states,
        sums=columns,
        blocks=blocks,
        products=products,
        turned=turned,
        batch_sums=tuple(_sum_parts(graph, refs, columns) for refs in sums),
        tape=step.tape,
        gradients=dict(step.dparameters),
        widths=step.widths,
        input_size=step.input_size,
        output_size=step.widths[0] if step.y is None else len(step.y),
        dtype=step.dtype,
        has_y=step.y is not None,
        needs_x=needs_x,
    )


def _turned(step: Step) -> tuple[bool, ...]:
    """Of every product, whether all that is ever done with it is to transpose it: then it is computed transposed."""
    leaves = {entry.leaf[1]: n for n, entry in enumerate(step.tape.entries) if _is_product(entry.leaf)}
    ends = set(step.dparameters.values())
    return tuple(p in leaves and _only_turned(step, leaves[p], ends) for p in range(len(step.products)))


def _only_turned(step: Step, value: int, ends: set[int]) -> bool:
    """Whether a value is read only to be transposed, and not back again."""
    readers = [n for n, reads in enumerate(step.tape.inputs) if value in reads]
    turned = bool(readers) and all(step.tape.entries[n].function in TRANSPOSES for n in readers)
    return turned and value not in ends and not all(_only_turned(step, n, ends) for n in readers)


def _is_product(leaf: object) -> bool:
    return isinstance(leaf, tuple) and leaf[0] == "product" and leaf[2] is None


def _inferred(graph: Graph, stages: dict[str, tuple[Loop, ...]]) -> Iterable[int]:
    for stage in EARLY:
        for loop in stages[stage]:
            for arg, _ in reads(graph, loop):
                if arg.atom not in computed(loop) or not aligned(arg, loop.width):
                    yield arg.atom


def _outputs(step: Step, needs_x: bool) -> dict[str, Refs]:
    outputs: dict[str, Refs] = {} if step.y is None else {"y": step.y}
    outputs |= {f"state{place}": refs for place, refs in enumerate(step.states)}
    outputs |= {f"dstate{place}": refs for place, refs in enumerate(step.dstates) if refs is not None}
    if needs_x and step.dx is not None:
        outputs["dx"] = step.dx
    for place, (left, right) in enumerate(step.products):
        outputs |= {f"left{place}": left, f"right{place}": right}
    return outputs | {f"sum{place}": refs for place, refs in enumerate(step.sums)}


def _set_zeros(graph: Graph, widths: tuple[int, ...]) -> None:
    """Columns of a gradient that depend on none are zero: a gradient is linear in what comes in.

    So is that of a state that no step reads: it is written, too, over what came in for the state before.
    """
    depends = graph.depends()
    zero = graph.add(Atom("const", 1, (), 0.0))
    depends.append(0)
    for place, width in enumerate(widths):
        graph.outputs.setdefault(f"dstate{place}", np.full(width, zero << COLUMN_BITS))
    for name, refs in graph.outputs.items():
        if name == "dx" or name.startswith(("dstate", "sum")):
            dead = np.array([not depends[int(ref) >> COLUMN_BITS] & GRAD for ref in refs], dtype=bool)
            graph.outputs[name] = np.where(dead, zero << COLUMN_BITS, refs)


def _claim(graph: Graph, name: str, taken: dict[int, list[Place]]) -> None:
    """Let the atoms of an output be computed in its place; what cannot be there itself is copied there."""
    column = 0
    refs: list[Refs] = []
    depends = graph.depends()
    for part in segments(graph.outputs[name]):
        atom = part.atom
        whole = part.start == 0 and part.step == 1 and part.width == graph.atoms[atom].width
        early = name.startswith("d") and not depends[atom] & GRAD  # as zeros, which are written with the rest
        if not whole or graph.atoms[atom].op in (*LEAVES, "mm", "cumsum") or atom in taken or early:
            atom = graph.add(Atom("copy", part.width, (part,)), graph.wheres[atom], graph.names.get(atom, ""))
        taken.setdefault(atom, []).append(Place(name, column, "new" if name.startswith(("state", "dstate")) else ""))
        refs.append(graph.refs(atom))
        column += part.width
    graph.outputs[name] = np.concatenate(refs)


def _operand(graph: Graph, name: str) -> Operand:
    """One side of a product after the loop, as reads of memory; what is not in memory whole is copied."""
    parts: list[Read] = []
    depends = graph.depends()
    looped = any(depends[int(ref) >> COLUMN_BITS] & GRAD for ref in graph.outputs[name])
    for part in segments(graph.outputs[name]):
        atom = graph.atoms[part.atom]
        whole = part.start == 0 and part.step == 1 and part.width == atom.width
        memory = atom.op in ("x", "state") and (part.step == 1 or part.width == 1)
        own = looped and not depends[part.atom] & GRAD  # zeros among gradients
        if own or not (memory or (whole and atom.op not in LEAVES)):
            part = Read(graph.add(Atom("copy", part.width, (part,)), graph.wheres[part.atom]), 0, 1, part.width)
        parts.append(part)
    graph.outputs[name] = np.concatenate([np.arange(r.width) + (r.atom << COLUMN_BITS) + r.start for r in parts])
    return Operand(name, tuple(parts), looped)


def _sum_atoms(graph: Graph) -> list[Refs]:
    found = []
    for name in [name for name in graph.outputs if name.startswith("sum")]:
        refs: list[Refs] = []
        for part in segments(graph.outputs[name]):
            if graph.atoms[part.atom].op in (*LEAVES, "cumsum") and graph.atoms[part.atom].op != "const":
                part = Read(graph.add(Atom("copy", part.width, (part,))), 0, 1, part.width)
            refs.append(np.arange(part.width) * part.step + (part.atom << COLUMN_BITS) + part.start)
        graph.outputs[name] = np.concatenate(refs)
        found.append(graph.outputs[name])
    for name in [name for name in graph.outputs if name.startswith("sum")]:
        constant = [ref for ref in graph.outputs[name] if graph.atoms[int(ref) >> COLUMN_BITS].op == "const"]
        if constant:
            keep = [ref for ref in graph.outputs[name] if ref not in constant]
            graph.outputs[name] = np.array(keep, dtype=np.int64)
    return found


def _atoms_of(refs: Refs) -> Iterable[tuple[int, int, int]]:
    for part in segments(refs):
        yield part.atom, part.start, part.width


def _sum_parts(graph: Graph, refs: Refs, columns: dict[int, int]) -> tuple[tuple[int, int] | float, ...]:
    parts: list[tuple[int, int] | float] = []
    for part in segments(refs):
        if graph.atoms[part.atom].op == "const":
            parts += [float(graph.atoms[part.atom].detail)] * part.width
        elif part.step == 1:
            parts.append((columns[part.atom] + part.start, part.width))
        else:
            parts += [(columns[part.atom] + part.start + part.step * place, 1) for place in range(part.width)]
    return tuple(_side_by_side(parts))


def _side_by_side(parts: list[tuple[int, int] | float]) -> list[tuple[int, int] | float]:
    """The same with columns that follow each other as one part."""
    found: list[tuple[int, int] | float] = []
    for part in parts:
        last = found[-1] if found else 0.0
        if isinstance(part, tuple) and isinstance(last, tuple) and sum(last) == part[0]:
            found[-1] = (last[0], last[1] + part[1])
        else:
            found.append(part)
    return found


def _order(differentials: list[Operand], operands: list[Operand]) -> list[int]:
    """The atoms of the gradients, those that meet the same inputs side by side, as one parameter has them."""
    others: dict[int, list[int]] = {}
    sides: list[tuple[Read, ...]] = []
    for operand in differentials:
        partner = operands[operands.index(operand) ^ 1]
        if partner.parts not in sides:
            sides.append(partner.parts)
        for part in operand.parts:
            others.setdefault(part.atom, []).append(sides.index(partner.parts))
    return sorted(others, key=lambda atom: sum(others[atom]) / len(others[atom]))


def _buffers(
    graph: Graph,
    step: Step,
    states: tuple[str, ...],
    widths: dict[str, int],
    local: dict[str, dict[int, Place]],
    sums: int,
) -> dict[str, Buffer]:
    found = {"x": Buffer("x", "sequence", step.input_size)}
    for place, width in enumerate(step.widths):
        found[f"state{place}"] = Buffer(states[place], "state", width)
        found[f"dstate{place}"] = Buffer(f"d{states[place]}", "carry", width)
    output = step.widths[0] if step.y is None else len(step.y)
    found["dy"] = Buffer("dy", "sequence", output)
    found["y"] = Buffer("y", "sequence", output)
    found["dx"] = Buffer("dx", "sequence", step.input_size)
    for name in ("d", "kept", "hoisted"):
        found[name] = Buffer(name, "sequence", widths.get(name, 0))
    ends = [place.column + graph.atoms[atom].width for places in local.values() for atom, place in places.items()]
    found["scratch"] = Buffer("scratch", "local", max(ends, default=0))
    found["sums"] = Buffer("sums", "sums", sums)
    return found
