"""A small layered layout of a graph, as SVG text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape
from typing import Any, Protocol


class Box(Protocol):
    """What is drawn: a name, a text below it, the names of those it reads, and a kind."""

    @property
    def name(self) -> str: ...
    @property
    def equation(self) -> str: ...
    @property
    def reads(self) -> tuple[str, ...]: ...
    @property
    def kind(self) -> str: ...


CHARACTER, LINE, PAD, GAP, ACROSS = 6.7, 16, 10, 18, 64  # pixels
LONGEST = 46  # characters on a line
SWEEPS = 12
# Okabe and Ito's colours: of edges, by where they begin; fills and borders, by kind.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
FILLS = {"input": "#eeeeee", "gate": "#fff3d6", "value": "#ffffff", "output": "#dcecf7"}


def render(title: str, boxes: Sequence[Box]) -> str:
    """The graph as SVG: inputs on the left, every value to the right of what it reads."""
    layout = Layout(boxes)
    colours = {box.name: COLOURS[place % len(COLOURS)] for place, box in enumerate(boxes)}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{layout.width:.0f}" height="{layout.height:.0f}" '
        f'viewBox="0 0 {layout.width:.0f} {layout.height:.0f}" font-family="DejaVu Sans Mono, Menlo, monospace">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{PAD}" y="20" font-size="13" fill="#333333">{escape(title)}</text>',
    ]
    for path in layout.paths:
        lines.append(_edge(layout, path, colours[path[0]]))
    for box in boxes:
        lines += _box(layout, box, colours[box.name])
    return "\n".join((*lines, "</svg>"))


class Layout:
    """Where boxes lie: columns by the longest way from an input, rows so that neighbours are near."""

    def __init__(self, boxes: Sequence[Box]) -> None:
        self.texts = {box.name: _wrapped(box.equation) for box in boxes}
        depth: dict[str, int] = {}
        for box in boxes:  # each comes after those it reads
            depth[box.name] = 1 + max((depth[one] for one in box.reads), default=-1)
        self.columns: list[list[str]] = [[] for _ in range(max(depth.values(), default=0) + 1)]
        for box in boxes:
            self.columns[depth[box.name]].append(box.name)
        self.paths = [self._path(one, box.name, depth) for box in boxes for one in box.reads]
        self.sizes = {box.name: _size(box.name, self.texts[box.name]) for box in boxes}
        self._order()
        self._place()

    def _path(self, source: str, target: str, depth: dict[str, int]) -> list[str]:
        """A way from column to column, through places of its own where it passes some."""
        between = [f"{source}>{k}" for k in range(depth[source] + 1, depth[target])]  # shared by all from this source
        for k, name in enumerate(between, depth[source] + 1):
            if name not in self.columns[k]:
                self.columns[k].append(name)
        return [source, *between, target]

    def _order(self) -> None:
        """Sort every column by where its neighbours are, back and forth."""
        near: dict[str, set[str]] = {}
        for path in self.paths:
            for one, other in itertools.pairwise(path):
                near.setdefault(one, set()).add(other)
                near.setdefault(other, set()).add(one)
        for sweep in range(SWEEPS):
            order = range(1, len(self.columns)) if sweep % 2 == 0 else range(len(self.columns) - 2, -1, -1)
            for k in order:
                beside = self.columns[k - 1 if sweep % 2 == 0 else k + 1]
                rank = {name: (place + 0.5) / len(beside) for place, name in enumerate(beside)}
                own = {name: (place + 0.5) / len(self.columns[k]) for place, name in enumerate(self.columns[k])}
                self.columns[k].sort(
                    key=lambda name: _mean([rank[n] for n in near.get(name, ()) if n in rank], own[name])
                )

    def _place(self) -> None:
        heights = [sum(self._height(n) for n in column) + GAP * (len(column) - 1) for column in self.columns]
        tallest, x = max(heights, default=0.0), float(PAD)
        self.at: dict[str, tuple[float, float]] = {}
        for column, height in zip(self.columns, heights, strict=True):
            wide = max((self.sizes[n][0] for n in column if n in self.sizes), default=0.0)
            spare = (tallest - height) / (len(column) + 1)
            y = 36 + spare
            for name in column:
                w = self.sizes.get(name, (wide, 0.0))[0]
                self.at[name] = (x + (wide - w) / 2 if name in self.sizes else x, y)
                self.sizes.setdefault(name, (wide, 8.0))
                y += self.sizes[name][1] + GAP + spare
            x += wide + ACROSS
        self.width, self.height = x - ACROSS + PAD, tallest + 36 + PAD

    def _height(self, name: str) -> float:
        return self.sizes[name][1] if name in self.sizes else 8.0


def _mean(values: list[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _wrapped(text: str) -> list[str]:
    """Lines of about LONGEST characters, broken between the terms of the whole sum."""
    lines: list[str] = []
    for term in _terms(text):
        if lines and len(lines[-1]) + len(term) + 3 <= LONGEST:
            lines[-1] += f" + {term}"
        else:
            lines.append(f"  + {term}" if lines else term)
    return lines


def _terms(text: str) -> list[str]:
    terms, level = [""] if text else [], 0
    for piece in text.split(" + ") if text else ():
        terms[-1] += piece if not terms[-1] else f" + {piece}"
        level += piece.count("(") - piece.count(")")
        if level == 0:
            terms.append("")
    return [term for term in terms if term]


def _size(name: str, text: list[str]) -> tuple[float, float]:
    longest = max(len(name) * 1.2, *(len(line) for line in text), 3)
    return longest * CHARACTER + 2 * PAD, LINE * (1 + len(text)) + PAD


def _edge(layout: Layout, path: list[str], colour: str) -> str:
    x, y = layout.at[path[0]]
    w, h = layout.sizes[path[0]]
    parts = [f"M {x + w:.1f} {y + h / 2:.1f}"]
    from_x, from_y = x + w, y + h / 2
    for name in path[1:]:
        x, y = layout.at[name]
        w, h = layout.sizes[name]
        to_y, last = y + h / 2, name == path[-1]
        to_x = x - (6 if last else 0)
        middle = (from_x + to_x) / 2
        parts.append(f"C {middle:.1f} {from_y:.1f} {middle:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}")
        if not last:
            parts.append(f"L {x + w:.1f} {to_y:.1f}")
        from_x, from_y = x + w, to_y
    tip = f"M {to_x + 5:.1f} {to_y:.1f} l -7 -3.5 v 7 z"
    return (
        f'<path d="{" ".join(parts)}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        f'<path d="{tip}" fill="{colour}"/>'
    )


def _box(layout: Layout, box: Any, colour: str) -> list[str]:
    (x, y), (w, h) = layout.at[box.name], layout.sizes[box.name]
    corner = 12 if box.kind == "input" else 4
    border = 2.5 if box.kind == "output" else 1.5
    lines = [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="{corner}" '
        f'fill="{FILLS[box.kind]}" stroke="{colour}" stroke-width="{border}"/>',
        f'<text x="{x + PAD:.1f}" y="{y + LINE:.1f}" font-size="13" font-weight="bold">{escape(box.name)}</text>',
    ]
    for place, line in enumerate(layout.texts[box.name], 2):
        at = f'x="{x + PAD:.1f}" y="{y + LINE * place:.1f}"'
        lines.append(f'<text {at} font-size="11" xml:space="preserve">{escape(line)}</text>')
    return lines
