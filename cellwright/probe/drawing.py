"""draw: one step of a cell as a graph of its named values, forward or backward."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

import torch
from torch import Tensor, nn

from cellwright.cells import Cell, adapt
from cellwright.errors import CellError
from cellwright.layers.sequences import Part
from cellwright.probe.observe import in_the_open
from cellwright.probe.svg import render
from cellwright.program.graph import labels
from cellwright.step import Refused, Step, capture
from cellwright.step.atoms import COLUMN_BITS, Read, Refs, Weight
from cellwright.step.ops import OPS

INPUT, VALUE, GATE, OUTPUT = "input", "value", "gate", "output"


@dataclass(frozen=True)
class Node:
    """A value: its name, its equation in terms of other nodes, what they are, and what kind it is of."""

    name: str
    equation: str
    reads: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Drawing:
    """A step as a graph: `str()` is its equations; `mermaid()`, `dot()` and `svg()` are pictures of it in text."""

    title: str
    nodes: tuple[Node, ...]

    def __str__(self) -> str:
        return "\n".join(f"{node.name} = {node.equation}" for node in self.nodes if node.equation)

    def edges(self) -> Iterator[tuple[str, str]]:
        """Which value is read by which."""
        for node in self.nodes:
            for source in node.reads:
                yield source, node.name

    def mermaid(self) -> str:
        """The graph for Markdown pages, such as GitHub's."""
        places = {node.name: f"n{place}" for place, node in enumerate(self.nodes)}
        shapes = {INPUT: ('(["', '"])'), OUTPUT: ('[["', '"]]')}
        lines = ["flowchart LR"]
        for node in self.nodes:
            start, end = shapes.get(node.kind, ('["', '"]'))
            text = "<br>".join(escape(part) for part in (node.name, node.equation) if part)
            lines.append(f"  {places[node.name]}{start}{text}{end}")
        return "\n".join((*lines, *(f"  {places[one]} --> {places[other]}" for one, other in self.edges())))

    def dot(self) -> str:
        """The graph in the language of Graphviz."""
        styles = {INPUT: "rounded,filled", GATE: "filled", OUTPUT: "bold"}
        lines = [f'digraph "{_quoted(self.title)}" {{', "  rankdir=LR; node [shape=box, fontname=Helvetica];"]
        for node in self.nodes:
            text = "\\n".join(_quoted(part) for part in (node.name, node.equation) if part)
            lines.append(f'  "{_quoted(node.name)}" [label="{text}", style="{styles.get(node.kind, "solid")}"];')
        lines += [f'  "{_quoted(one)}" -> "{_quoted(other)}";' for one, other in self.edges()]
        return "\n".join((*lines, "}"))

    def svg(self) -> str:
        """The graph as a picture, for which nothing needs to be installed."""
        return render(self.title, self.nodes)

    def _repr_svg_(self) -> str:  # what notebooks show
        return self.svg()


def draw(cell: nn.Module, backward: bool = False, **columns: int) -> Drawing:
    """One step of a cell as a graph with its author's names.

    >>> from cellwright.cells import LSTM
    >>> print(draw(LSTM(3, 5)))
    i = sigmoid(x @ W_xi + h[t-1] @ W_hi + b_i)
    f = sigmoid(x @ W_xf + h[t-1] @ W_hf + b_f)
    o = sigmoid(x @ W_xo + h[t-1] @ W_ho + b_o)
    g = tanh(x @ W_xg + h[t-1] @ W_hg + b_g)
    c = f * c[t-1] + i * g
    h = o * tanh(c)
    >>> draw(LSTM(3, 5)).dot().splitlines()[0]
    'digraph "LSTM(3, 5)" {'

    Args:
        cell: a cell, ours or others'; or any module of row-wise operations, with `columns`.
        backward: draw the derived backward instead: dc is the gradient that reaches c.
        columns: of a module that is no cell, the columns of every input by name: draw(module, x1=2, x2=2, x3=4).

    Raises:
        CellError: the step cannot be traced; the message says why.
    """
    opened = _Opened(cell, columns) if columns else in_the_open(Part(_cell(cell), {})).cell
    title = str(cell).splitlines()[0].rstrip("(")
    try:
        step = capture(_on_cpu(opened), torch.float32, gradient_names=True)
    except Refused as refused:
        raise CellError(
            "a cell is drawn as its step is traced: without decisions on values, or rows that see each other",
            f"{title}: {refused}",
            "draw a cell without that",
        ) from refused
    leaves = tuple(columns) or ("x", *(f"{name}[t-1]" for name in opened.state))
    graph = _Reader(step, leaves, opened.state, not columns, opened.gates)
    return Drawing(
        f"{title}, backward" if backward else title, tuple(graph.backward() if backward else graph.forward())
    )


def _cell(module: nn.Module) -> Cell:
    return module if isinstance(module, Cell) else adapt(module)


def _on_cpu(cell: Cell) -> Cell:
    """The cell, or where its weights are elsewhere or nowhere, one of the same sizes."""
    if all(parameter.device.type == "cpu" for parameter in cell.parameters()):
        return cell
    other = type(cell)(**cell._arguments)
    for parameter in other.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    return other


class _Opened(Cell):
    """A module with several inputs as a cell: the first is x, the others are states that stay."""

    state = ()

    def __init__(self, module: nn.Module, columns: dict[str, int]) -> None:
        first, *rest = columns.values()
        super().__init__(first, first)
        self.module, self.names, self.rest = module, tuple(columns), tuple(rest)
        self.__dict__["state"] = self.names[1:]

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return self.rest

    def step(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        return (self.module(**dict(zip(self.names, (x, *state), strict=True))), *state)


class _Reader:
    """Reads a Step as nodes: named values, what goes in and what comes out."""

    def __init__(
        self, step: Step, leaves: tuple[str, ...], states: tuple[str, ...], recurrent: bool, gates: dict[str, str]
    ) -> None:
        self.step, self.leaves, self.states, self.recurrent, self.gates = step, leaves, states, recurrent, gates
        self.weights = labels(step.tape)
        self.names = dict(step.names)
        shown = [("y", step.y), *(zip(states, step.states, strict=True) if recurrent else ())]
        self.results = self._outputs([(name, refs) for name, refs in shown if refs is not None])
        self.grads = self._outputs(
            [(f"d{n}", r) for n, r in zip(leaves, (step.dx, *step.dstates), strict=True) if r is not None]
        )

    def _outputs(self, shown: list[tuple[str, Refs]]) -> list[int]:
        """The atoms that leave the step; those that their author left without a name get that of what they become."""
        found: list[int] = []
        for name, refs in shown:
            atoms = sorted({int(ref) >> COLUMN_BITS for ref in refs})
            for place, atom in enumerate(atoms):
                own = name if len(atoms) == 1 else f"{name}_{place}"
                if self.step.atoms[atom].op in OPS or self.step.atoms[atom].op in ("mm", "sum", "max", "min", "cumsum"):
                    self.names.setdefault(atom, own)
                    found.append(atom)
        return found

    def forward(self) -> Iterator[Node]:
        yield from self._nodes(self.results, {"x", "state"})

    def backward(self) -> Iterator[Node]:
        yield from self._nodes(self.grads, {"dy", "dstate"})

    def _nodes(self, wanted: list[int], inputs: set[str]) -> Iterator[Node]:
        """What is wanted and all named values that lead to it, in order; what else is read is only mentioned."""
        atoms, needed, stack = self.step.atoms, set(), list(wanted)
        depends = self._depends(inputs)
        while stack:
            place = stack.pop()
            if place not in needed and depends[place]:
                needed.add(place)
                stack += [arg.atom for arg in atoms[place].args]
        for place in sorted(needed):
            if atoms[place].op in inputs:
                yield Node(self.label(place), "", (), INPUT)
            elif place in self.names:
                reads = dict.fromkeys(self.label(one) for one in self._anchors(place) if one in needed)
                name = self.names[place]
                kind = GATE if name in self.gates and place not in wanted else OUTPUT if place in wanted else VALUE
                yield Node(name, self.equation(place), tuple(reads), kind)

    def _depends(self, inputs: set[str]) -> list[bool]:
        found: list[bool] = []
        for atom in self.step.atoms:
            found.append(atom.op in inputs or any(found[arg.atom] for arg in atom.args))
        return found

    def _anchors(self, place: int) -> Iterator[int]:
        """The named values and leaves that a value is made of."""
        for arg in self.step.atoms[place].args:
            if arg.atom in self.names or not self.step.atoms[arg.atom].args:
                yield arg.atom
            else:
                yield from self._anchors(arg.atom)

    def label(self, place: int) -> str:
        """What a leaf or named value is called."""
        atom = self.step.atoms[place]
        if atom.op == "const":
            return f"{atom.detail:g}"
        if atom.op in ("x", "state"):
            return self.leaves[0 if atom.op == "x" else 1 + atom.detail]
        if atom.op == "dstate":
            return f"d{self.states[atom.detail]}[t]"
        if atom.op == "weight":
            return self.weights.get(atom.detail[0], f"w{atom.detail[0]}")
        return "dy" if atom.op == "dy" else self.names[place]

    def equation(self, place: int, inside: bool = False) -> str:
        """The equation of a value in terms of named ones."""
        atom = self.step.atoms[place]
        if not atom.args or (inside and place in self.names):
            return self.label(place)
        if atom.op == "mm":
            pairs = zip(atom.args, atom.detail, strict=True)
            text = " + ".join(f"{self._read(arg)} @ {self._matrix(weight)}" for arg, weight in pairs)
            return f"({text})" if inside and len(atom.args) > 1 else text
        parts = [self._read(arg) for arg in atom.args]
        if atom.op not in OPS:
            return f"{atom.op}({', '.join(parts)})"
        if "(" in OPS[atom.op].text[1:]:  # a function: its brackets are enough
            parts = [_bare(part) for part in parts]
        if atom.op in ("add", "sub"):
            parts[0] = _bare(parts[0])
        if atom.op == "add":
            parts[1] = _bare(parts[1])
        if atom.op == "mul" and "@" in parts[1] and self._is_product(atom.args[1].atom):
            parts[1] = f"({parts[1]})"
        text = OPS[atom.op].text.format(*parts)
        return text if inside else _bare(text)

    def _is_product(self, place: int) -> bool:
        return self.step.atoms[place].op == "mm" and place not in self.names

    def _read(self, arg: Read) -> str:
        text = self.equation(arg.atom, inside=True)
        whole = arg.step == 0 or (arg.start == 0 and arg.width == self.step.atoms[arg.atom].width)
        return text if whole else f"{text}[{arg.start}:{arg.start + arg.width}]"

    def _matrix(self, weight: Weight) -> str:
        return self.weights.get(weight.value, f"w{weight.value}")


def _bare(text: str) -> str:
    """Without brackets around all of it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    level = 0
    for place, sign in enumerate(text):
        level += (sign == "(") - (sign == ")")
        if level == 0 and place < len(text) - 1:
            return text
    return _bare(text[1:-1])


def _quoted(text: str) -> str:
    return re.sub(r'(["\\])', r"\\\1", text)
