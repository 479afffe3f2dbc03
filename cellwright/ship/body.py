"""Body: one step of a cell as ONNX nodes, made from its atoms, with the names that the cell's author gave them."""

from __future__ import annotations

import ast
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from cellwright.errors import ExportError
from cellwright.program.equations import equation
from cellwright.program.graph import Graph, labels
from cellwright.ship.nodes import Nodes
from cellwright.step import Step
from cellwright.step.atoms import Atom, Read, Refs, segments
from cellwright.step.ops import OPS

REDUCTIONS = {"sum": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin"}
INPUTS = ("x", "state")
LACKING = {"erf": "Erf", "atan": "Atan"}  # of onnxruntime, in float64


class Body:
    """What the atoms of a step are called in an ONNX graph; values are (B, columns), or (1, columns) for all rows.

    Args:
        nodes: where the nodes go.
        step: the step.
        states: what the cell calls its states.
        weights: the cell's parameters and buffers by name.
        prefix: of their names in the graph.
        x: the name of the step's input (B, I).
        before: the names of the states before the step, each (B, H).
    """

    def __init__(
        self,
        nodes: Nodes,
        step: Step,
        states: tuple[str, ...],
        weights: dict[str, Tensor],
        prefix: str,
        x: str,
        before: list[str],
    ) -> None:
        self.nodes, self.step, self.prefix, self.x, self.before = nodes, step, prefix, x, before
        self.graph = Graph(list(step.atoms), list(step.wheres), step.names, {}, states, labels(step.tape))
        self.names: dict[int, str] = {}
        self.alike: set[str] = set()  # values that are the same for every row
        outputs = [refs for refs in (step.y, *step.states) if refs is not None]
        wanted = self.graph.ancestors(int(read.atom) for refs in outputs for read in segments(refs))
        self.weights = _replayed(step, wanted, weights)
        for place in sorted(wanted):
            self._add(place)

    def columns(self, refs: Refs, name: str) -> str:
        """These columns as a value (B, columns) of its own, that may leave the step."""
        return self.nodes.give(self._rows(self._beside(segments(refs))), self.nodes.name(name))

    def _add(self, place: int) -> None:
        atom = self.step.atoms[place]
        self.names[place] = self._value(place, atom)
        read = [self.names[arg.atom] for arg in atom.args]
        if atom.op not in INPUTS and all(name in self.alike for name in read):
            self.alike.add(self.names[place])

    def _value(self, place: int, atom: Atom) -> str:
        if atom.op in INPUTS:
            return self.x if atom.op == "x" else self.before[int(atom.detail)]
        if atom.op == "const":
            return self.nodes.number(atom.detail)
        if atom.op == "weight":
            return self._vector(*atom.detail)
        if atom.op == "mm":
            matrix, label = self._matrix(atom)
            return self._call(place, "MatMul", self._beside(atom.args), self.nodes.constant(matrix, label))
        if atom.op in REDUCTIONS:
            return self._call(place, REDUCTIONS[atom.op], self._beside(atom.args), self.nodes.ints(-1), keepdims=1)
        if atom.op == "cumsum":
            return self._call(place, "CumSum", self._beside(atom.args), self.nodes.constant(np.array(1), "axis"))
        self._refuse_lacking(place, atom)
        args = [self._read(arg) for arg in atom.args]
        found = self._spelled(place, OPS[atom.op].onnx, args)
        repeated = atom.width > 1 and all(arg.step == 0 for arg in atom.args)
        return self._spread(found, atom.width) if repeated else found

    # Operators.

    def _call(self, place: int, op: str, *inputs: str, **attributes: Any) -> str:
        """The result of an operator; where the author named the atom, with that name and the equation."""
        if place not in self.step.names:
            return self.nodes.call(op, *inputs, **attributes)
        name, everything = self.step.names[place], range(len(self.step.atoms))
        words = f"{name} = {equation(self.graph, place, everything, self.names)}"
        return self.nodes.call(op, *inputs, name=name, doc=words, **attributes)

    def _spelled(self, place: int, text: str, args: list[str]) -> str:
        """What a text of the table of operations says, as nodes."""
        letters = "abc"[: len(args)]
        given = dict(zip(letters, args, strict=True))

        def value(part: ast.expr) -> str:
            if isinstance(part, ast.Name):
                return given[part.id]
            if isinstance(part, ast.Constant):
                return self.nodes.number(part.value)  # type: ignore[arg-type]
            assert isinstance(part, ast.Call)
            call = partial(self._call, place) if part is tree else self.nodes.call
            return call(ast.unparse(part.func), *map(value, part.args))

        tree = ast.parse(text.format(*letters), mode="eval").body
        return value(tree)

    def _refuse_lacking(self, place: int, atom: Atom) -> None:
        if atom.op in LACKING and str(self.nodes.dtype) == "torch.float64":
            raise ExportError(
                f"onnxruntime has {LACKING[atom.op]} for float32 only",
                f"{atom.op} in float64 ({self.step.wheres[place]})",
                "export the model in float32: model.float()",
            )

    # Columns.

    def _read(self, arg: Read) -> str:
        """A run of columns of a value; one that is repeated stays one."""
        name, width = self.names[arg.atom], self.step.atoms[arg.atom].width
        count = 1 if arg.step == 0 else arg.width
        if (arg.start, arg.step, count) in ((0, 1, width), (0, 0, width)):
            return name
        step = arg.step or 1
        end = arg.start + step * (count - 1) + (1 if step > 0 else -1)
        end = end if end >= 0 else -width - 1  # beyond the first column, backward
        ints = self.nodes.ints
        found = self.nodes.call("Slice", name, ints(arg.start), ints(end), ints(-1), ints(step))
        return self._as(found, name)

    def _beside(self, args: tuple[Read, ...]) -> str:
        """Runs of columns side by side, as one value."""
        parts = [self._spread(self._read(arg), arg.width) if arg.step == 0 else self._read(arg) for arg in args]
        if len(parts) == 1:
            return parts[0]
        if all(part in self.alike for part in parts):
            found = self.nodes.call("Concat", *parts, axis=-1)
            self.alike.add(found)
            return found
        return self.nodes.call("Concat", *map(self._rows, parts), axis=-1)

    def _spread(self, value: str, width: int) -> str:
        """One column repeated."""
        return self._as(self.nodes.call("Expand", value, self.nodes.ints(1, width)), value)

    def _rows(self, value: str) -> str:
        """A value for every row."""
        if value not in self.alike:
            return value
        rows = self.nodes.call("Shape", self.x, start=0, end=1)
        return self.nodes.call("Expand", value, self.nodes.call("Concat", rows, self.nodes.ints(1), axis=0))

    def _as(self, found: str, origin: str) -> str:
        """A value that is the same for every row where its origin is."""
        if origin in self.alike:
            self.alike.add(found)
        return found

    # Weights.

    def _vector(self, number: int, repeated: tuple[int, ...]) -> str:
        vector = self.weights[number]
        for dim in repeated:
            vector = vector.select(dim, 0).unsqueeze(dim)
        return self.nodes.constant(vector.reshape(1, -1).to(self.nodes.dtype), self._label(number))

    def _matrix(self, atom: Atom) -> tuple[Tensor, str]:
        """The weights of a product: their rows are read from the first on, in the order of its arguments."""
        first, rows = atom.detail[0], sum(arg.width for arg in atom.args)
        assert all(one._replace(row=first.row) == first for one in atom.detail)
        matrix: Tensor = self.weights[first.value][first.place]
        matrix = matrix.t() if first.transposed else matrix
        label = self._label(first.value) + ("^T" if first.transposed else "")
        return matrix[first.row : first.row + rows, first.column : first.column + atom.width], label

    def _label(self, number: int) -> str:
        return self.prefix + self.graph.labels.get(number, f"w{number}")


def _replayed(step: Step, wanted: set[int], weights: dict[str, Tensor]) -> dict[int, Tensor]:
    """The values of the tape that these atoms read."""
    atoms = [step.atoms[place] for place in wanted]
    numbers = {atom.detail[0] for atom in atoms if atom.op == "weight"}
    numbers |= {weight.value for atom in atoms if atom.op == "mm" for weight in atom.detail}
    values = step.tape.replay(numbers, lambda leaf: weights[leaf] if isinstance(leaf, str) else leaf)
    return {number: values[number].detach() for number in numbers}
