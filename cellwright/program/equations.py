"""Equations: atoms in words, with the names that the cell's author gave them."""

from __future__ import annotations

import keyword
import re

from cellwright.program.graph import Graph
from cellwright.program.loops import Loop
from cellwright.step.atoms import Read
from cellwright.step.ops import OPS

RESERVED = set(
    "auto break case char const continue default do double else enum extern float for goto if int long register "
    "return short signed sizeof static struct switch typedef union unsigned void volatile while "
    "inline restrict arg step row col lanes tile at part keep vec ivec real VL VB NAN INFINITY Args Range add_of "
    "max_of least_of total_sum total_max total_min CHUNK SUMS".split()
)


def identifiers(graph: Graph) -> dict[int, str]:
    """A C name for every atom: the author's where there is one."""
    found: dict[int, str] = {}
    used: set[str] = set()
    for place in range(len(graph.atoms)):
        name = re.sub(r"\W", "_", graph.names.get(place, f"v{place}"))
        if name in RESERVED or name in used or keyword.iskeyword(name) or re.match(r"v_|V_|v\d+$", name) and place in graph.names:
            name = f"{name}_{place}"
        used.add(name)
        found[place] = name
    return found


def equation(graph: Graph, place: int, loop: Loop, names: dict[int, str], depth: int = 0) -> str:
    """The equation of an atom in terms of named values and of what lies in memory."""
    atom = graph.atoms[place]
    inside = place in loop.atoms or place in loop.scalars
    if not inside or (depth and place in graph.names) or depth > 12:
        return label(graph, place, names)
    parts = [equation(graph, arg.atom, loop, names, depth + 1) for arg in atom.args]
    text = OPS[atom.op].text.format(*parts)
    return text[1:-1] if depth == 0 and text.startswith("(") and _closes(text) else text


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
        return f"state{atom.detail}[t-1]"
    if atom.op == "dstate":
        return f"dstate{atom.detail}"
    if atom.op == "weight":
        return f"w{atom.detail[0]}"
    if atom.op == "mm":
        return " + ".join(f"{read_label(graph, arg, names)} @ w{w.value}" for arg, w in zip(atom.args, atom.detail, strict=True))
    if atom.op in ("sum", "max", "min"):
        return f"{atom.op}({', '.join(read_label(graph, arg, names) for arg in atom.args)})"
    return names[place]


def read_label(graph: Graph, arg: Read, names: dict[int, str]) -> str:
    text = label(graph, arg.atom, names) if graph.atoms[arg.atom].op not in ("mm", "sum", "max", "min") else names[arg.atom]
    whole = arg.start == 0 and arg.width == graph.atoms[arg.atom].width
    return text if whole else f"{text}[{arg.start}:{arg.start + arg.width}]"
