"""Writes docs/cells.md from the cells themselves: equations from their traced steps, papers from their docstrings.

python docs/write_cells.py           # writes the page
python docs/write_cells.py --check   # ends with an error if the page is not what would be written
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from cellwright.cells import LIBRARY, Cell
from cellwright.cells import modify as modifiers
from cellwright.cells.library import FAMILIES
from cellwright.errors import CellError
from cellwright.probe.latex import latex, multiply_adds
from cellwright.program import plan
from cellwright.step import Refused, capture

PAGE = Path(__file__).with_name("cells.md")
I, H = 8, 28  # of the equations
SIZES = [(2, 8), (6, 8), (2, 12), (4, 16), (6, 20), (8, 12)]  # of what is counted
TERMS = {"H²": lambda i, h: h * h, "IH": lambda i, h: i * h, "H": lambda i, h: h, "I": lambda i, h: i}
MODIFIERS: dict[str, Callable[[Cell], Cell]] = {
    "zoneout": modifiers.Zoneout,
    "recurrent dropout": modifiers.RecurrentDropout,
    "norms": lambda cell: modifiers.Normed(cell, states=cell.state),
    "weight drop": modifiers.WeightDrop,
    "weight norm": modifiers.WeightNorm,
    "heads": lambda cell: modifiers.Heads(cell, 2),
    "residual": modifiers.Residual,
    "highway": modifiers.Highway,
    "learned state": modifiers.LearnedState,
}
HEAD = """# The cells

Written by `python docs/write_cells.py` from the cells themselves. `cw.Recurrent(cw.cells.LSTM(28, 256))`, or by name:
`cw.cells.find_cell("lstm")(28, 256)`, `cellwright train --cell lstm`. Equations are those of the traced step, in terms
of the values that the code names; $f(W)$ is made of weights alone, $\\operatorname{where}(a, b, c)$ is b where a is.
Parameters and multiply-adds (of one row and step, in products with matrices) are functions of the columns I of x and H
of the state. Every cell runs fused in C on the CPU (`backend="c"`), forward and backward.
"""


WITHOUT_A_NAME = """
## Cells for columns with a meaning

`cw.cells.GRUD` (Che et al. 2018) reads values, what was measured and how long ago; `cw.cells.MCLSTM` (Hoedt et al.
2021) reads masses and conserves them. A text has no such columns, so these two have no name on the command line.
"""


def main() -> None:
    PAGE.write_text("\n".join(page()) + "\n", encoding="utf-8")


def page() -> Iterator[str]:
    yield HEAD
    yield from table()
    for family in [one for one in FAMILIES if one.CELLS]:
        yield f"\n## {(family.__doc__ or '').splitlines()[0].rstrip('.')}\n"
        for name in family.CELLS:
            yield from entry(name)
    yield WITHOUT_A_NAME
    yield from modified()


def table() -> Iterator[str]:
    yield "| name | states | parameters | multiply-adds |\n| --- | --- | --- | --- |"
    for name, make in LIBRARY.items():
        parameters = polynomial(make, lambda cell: sum(p.numel() for p in cell.parameters()))
        products = polynomial(make, lambda cell: multiply_adds(capture(cell, torch.float32)))
        yield f"| [{name}](#{name}) | {', '.join(make(I, H).state)} | {parameters} | {products} |"


def entry(name: str) -> Iterator[str]:
    cell = LIBRARY[name](I, H)
    about = inspect.cleandoc(type(cell).__doc__ or "")
    settings = cell.extra_repr().split(", ", 2)[2:]
    yield f"### {name}\n"
    yield f"{about.splitlines()[0]} `cw.cells.{type(cell).__name__}({', '.join(['I', 'H', *settings])})`\n"
    yield f"$$\n\\begin{{aligned}}\n{latex(cell)}\n\\end{{aligned}}\n$$\n"
    source = about.partition("Source:")[2].partition("\n\n")[0]
    yield f"Source: {' '.join(source.split())}\n"


def polynomial(make: Callable[[int, int], Cell], count: Callable[[Cell], int]) -> str:
    """A count as a polynomial in I and H, found from some sizes and checked at others."""
    rows = [[1, *(term(i, h) for term in TERMS.values())] for i, h in SIZES]
    counts = [count(make(i, h)) for i, h in SIZES]
    found = [Fraction(float(c)).limit_denominator(8) for c in np.linalg.lstsq(rows, counts, rcond=None)[0]]
    if any(sum(c * r for c, r in zip(found, row, strict=True)) != n for row, n in zip(rows, counts, strict=True)):
        return f"{counts[0]} at I = {SIZES[0][0]}, H = {SIZES[0][1]}"
    names = [*list(TERMS), ""]
    terms = zip([*found[1:], found[0]], names, strict=True)
    return " + ".join(f"{c if c != 1 or not n else ''}{n}" for c, n in terms if c) or "0"


def modified() -> Iterator[str]:
    """Which cells which modifiers do not take."""
    yield "\n## Modifiers\n"
    yield "`cw.cells.Zoneout(cw.cells.LSTM(28, 256))`, say: each makes a cell of a cell, in one fused loop.\n"
    yield "| modifier | what it does | fuses with |\n| --- | --- | --- |"
    for words, make in MODIFIERS.items():
        reasons: dict[str, list[str]] = {}
        for name in LIBRARY:
            reason = refusal(make, name)
            if reason:
                reasons.setdefault(reason, []).append(name)
        kind = type(make(LIBRARY["lstm"](I, H)))
        about = inspect.cleandoc(kind.__doc__ or "").splitlines()[0]
        but = "; ".join(f"not {', '.join(names)}: {reason}" for reason, names in reasons.items())
        yield f"| `{kind.__name__}` ({words}) | {about} | {but or 'every cell'} |"


def refusal(make: Callable[[Cell], Cell], name: str) -> str:
    """Why a modified cell is refused or not fused; nothing where it is."""
    try:
        cell = make(LIBRARY[name](6, 4))
        plan(capture(cell, torch.float32), cell.state, True)
    except CellError as error:
        return error.rule
    except (Refused, TypeError) as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main()
