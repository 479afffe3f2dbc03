"""Equations of a step in LaTeX, from what was traced: every value that its author named, in terms of the others."""

from __future__ import annotations

import re
from collections.abc import Iterator

from cellwright.cells import Cell
from cellwright.step import Step, capture
from cellwright.step.atoms import COLUMN_BITS, Atom, Read

SPELLED = {  # how operations are written; the others by their name, as functions
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": r"{0} \odot {1}",
    "div": r"\frac{{{0}}}{{{1}}}",
    "neg": "-{0}",
    "copy": "{0}",
    "reciprocal": r"\frac{{1}}{{{0}}}",
    "rsqrt": r"\frac{{1}}{{\sqrt{{{0}}}}}",
    "sqrt": r"\sqrt{{{0}}}",
    "abs": r"\left|{0}\right|",
    "exp": "e^{{{0}}}",
    "pow": "{0}^{{{1}}}",
    "sigmoid": r"\sigma({0})",
    "tanh": r"\tanh({0})",
    "sum": r"\textstyle\sum {0}",
    "where": r"\operatorname{{where}}({0}, {1}, {2})",
    **{op: f"[{{0}} {sign} {{1}}]" for op, sign in (("eq", "="), ("ne", r"\neq"), ("lt", "<"), ("gt", ">"))},
    **{op: f"[{{0}} {sign} {{1}}]" for op, sign in (("le", r"\leq"), ("ge", r"\geq"))},
}
SUMS = {"add", "sub", "neg"}  # what stands in brackets as a factor
WRAPPED = {"mul", "pow", "neg", "sub"}  # the operations whose operands then do


def latex(cell: Cell) -> str:
    r"""The equations of a cell's step, a line for each value that `step` gives a name.

    >>> from cellwright.cells import RNN
    >>> print(latex(RNN(3, 5)))
    h_t &= \tanh(x_t W_{xh} + h_{t-1} W_{hh} + b_{h})

    Args:
        cell: a cell whose step can be traced.

    Returns:
        Lines for an `aligned` environment, with `\\` between them.

    Raises:
        Refused: the step cannot be traced.
    """
    return " \\\\\n".join(_Equations(capture(cell, next(cell.parameters()).dtype), cell).lines())


class _Equations:
    def __init__(self, step: Step, cell: Cell) -> None:
        self.step, self.cell = step, cell
        self.names = {place: _symbol(name) for place, name in step.names.items()}
        for place, columns in enumerate(step.states):
            self.names.setdefault(int(columns[0]) >> COLUMN_BITS, cell.state[place])

    def lines(self) -> Iterator[str]:
        for place in sorted(reached(self.step) & self.names.keys()):
            yield f"{self.names[place]}_t &= {self.written(place, top=True)}"

    def written(self, place: int, top: bool = False) -> str:
        """A value where it is used: by its name, or as what it is made from."""
        if place in self.names and not top:
            return f"{self.names[place]}_t"
        atom = self.step.atoms[place]
        if atom.op in ("x", "state", "weight", "const"):
            return self._leaf(atom)
        if atom.op == "mm":
            pairs = zip(atom.args, atom.detail, strict=True)
            return " + ".join(f"{self._read(arg, True)} {self._weight(weight.value)}" for arg, weight in pairs)
        parts = [self._read(arg, atom.op in WRAPPED and (k > 0 or atom.op == "mul")) for k, arg in enumerate(atom.args)]
        spelled = SPELLED.get(atom.op)
        return spelled.format(*parts) if spelled else rf"\operatorname{{{atom.op}}}({', '.join(parts)})"

    def _read(self, arg: Read, as_factor: bool) -> str:
        atom = self.step.atoms[arg.atom]
        text = self.written(arg.atom)
        if as_factor and arg.atom not in self.names and (atom.op in SUMS or (atom.op == "mm" and len(atom.args) > 1)):
            text = f"({text})"
        whole = arg.width == atom.width or atom.width == 1
        return text if whole or atom.op == "x" else f"{text}[{arg.start}:{arg.start + arg.width}]"

    def _leaf(self, atom: Atom) -> str:
        if atom.op == "x":
            return "x_t"
        if atom.op == "state":
            return f"{_symbol(self.cell.state[atom.detail])}_{{t-1}}"
        if atom.op == "weight":
            return self._weight(atom.detail[0])
        per_unit = 1 / self.cell.hidden_size
        return r"\tfrac{1}{H}" if abs(atom.detail - per_unit) < 1e-7 else f"{atom.detail:.4g}"

    def _weight(self, value: int) -> str:
        """A weight by its name; one that something was made from first, as a function of it."""
        direct = self.step.tape.direct(value)
        if direct is not None:
            name, flipped = direct
            return _symbol(str(name)) + (r"^\top" if flipped else "")
        entries = self.step.tape.entries
        made = sorted({str(entries[one].leaf) for one in self.step.tape.ancestors([value]) if entries[one].leaf})
        return f"f({', '.join(map(_symbol, made))})"


def reached(step: Step) -> set[int]:
    """The atoms that lead to the output and the new states."""
    columns = [*step.states, *([] if step.y is None else [step.y])]
    open_ = {int(ref) >> COLUMN_BITS for one in columns for ref in one}
    found: set[int] = set()
    while open_:
        place = open_.pop()
        found.add(place)
        open_ |= {arg.atom for arg in step.atoms[place].args} - found
    return found


def multiply_adds(step: Step) -> int:
    """Of one row and step, the multiply-adds in products with matrices."""
    products = (step.atoms[place] for place in reached(step) if step.atoms[place].op == "mm")
    return sum(arg.width * atom.width for atom in products for arg in atom.args)


def _symbol(name: str) -> str:
    """A name as a letter with an index: W_xi -> W_{xi}, new_h -> new_{h}; of a part of a cell, its last name."""
    first, _, rest = name.rpartition(".")[2].partition("_")
    first = first if len(first) == 1 else rf"\mathrm{{{first}}}"
    return f"{first}_{{{re.sub('_', '', rest)}}}" if rest else first
