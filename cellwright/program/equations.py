"""Equations: atoms in words, with the names that the cell's author gave them."""

from __future__ import annotations

import re
from collections.abc import Container

from cellwright.program.graph import Graph
from cellwright.step.atoms import Read, Weight
from cellwright.step.ops import OPS

RESERVED = """auto break case char const continue default do double else enum extern float for goto if int long register
return short signed sizeof static struct switch typedef union unsigned void volatile while inline restrict
arg step row col lanes tile at part keep m core vec ivec real VL VB NAN INFINITY Args Range Memory Core CHUNK SUMS
add_of max_of least_of total_sum total_max total_min"""  # words that mean something in the generated C

FOLDED = ("sum", "max", "min", "cumsum")  # operations on all columns of a row


def identifiers(graph: Graph, reserved: Container[str] = frozenset(RESERVED.split())) -> dict[int, str]:
    """A name in code for every atom: the author's where there is one."""
    found: dict[int, str] = {}
    used: set[str] = set()
    for place in range(len(graph.atoms)):
        name = re.sub(r"\W", "_", graph.names.get(place, f"v{place}"))
        if name in reserved or name in used or (place in graph.names and re.match(r"v_|V_|v\d+$", name)):
            name = f"{name}_{place}"
        used.add(name)
        found[place] = name
    return found


def equation(graph: Graph, place: int, inside: Container[int], names: dict[int, str], depth: int = 0) -> str:
    """The equation of an atom in terms of named values and of all that is not `inside`, written out."""
    atom = graph.atoms[place]
    if place not in inside or atom.op not in OPS or (depth and place in graph.names) or depth > 12:
        return label(graph, place, names)
    parts = [_part(graph, arg, inside, names, depth + 1) for arg in atom.args]
    if "(" in OPS[atom.op].text[1:]:  # a function: its brackets are enough
        parts = [_bare(part) for part in parts]
    text = OPS[atom.op].text.format(*parts)
    return _bare(text) if depth == 0 else text


def _part(graph: Graph, arg: Read, inside: Container[int], names: dict[int, str], depth: int) -> str:
    text, width = equation(graph, arg.atom, inside, names, depth), graph.atoms[arg.atom].width
    if not arg.step or arg.width == width:
        return text
    return f"{text if text.isidentifier() else f'({_bare(text)})'}[{arg.start}:{arg.start + arg.width}]"


def _bare(text: str) -> str:
    return text[1:-1] if text.startswith("(") and _closes(text) else text


def _closes(text: str) -> bool:
    level = 0
    for place, sign in enumerate(text):
        level += (sign == "(") - (sign == ")")
        if level == 0 and place < len(text) - 1:
            return False
    return True


def label(graph: Graph, place: int, names: dict[int, str]) -> str:
    """What an atom is called where it is not written out."""
    atom = graph.atoms[place]
    if atom.op == "const":
        return f"{atom.detail:g}"
    if atom.op in ("x", "dy"):
        return atom.op
    if atom.op == "state":
        return f"{graph.states[atom.detail]}[t-1]"
    if atom.op == "dstate":
        return f"d{graph.states[atom.detail]}"
    if atom.op == "weight":
        return graph.labels.get(atom.detail[0], f"w{atom.detail[0]}")
    if atom.op == "mm":
        pairs = zip(atom.args, atom.detail, strict=True)
        return " + ".join(f"{read_label(graph, arg, names)} @ {weight_label(graph, weight)}" for arg, weight in pairs)
    if atom.op in FOLDED:
        return f"{atom.op}({', '.join(read_label(graph, arg, names) for arg in atom.args)})"
    return names[place]


def weight_label(graph: Graph, weight: Weight) -> str:
    """What the matrix of a product is called."""
    return graph.labels.get(weight.value, f"w{weight.value}")


def read_label(graph: Graph, arg: Read, names: dict[int, str]) -> str:
    text = label(graph, arg.atom, names) if graph.atoms[arg.atom].op not in ("mm", *FOLDED) else names[arg.atom]
    whole = arg.start == 0 and arg.width == graph.atoms[arg.atom].width
    return text if whole else f"{text}[{arg.start}:{arg.start + arg.width}]"
