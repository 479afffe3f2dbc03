"""Nodes: an ONNX graph that grows node by node, in which equal nodes and equal constants are found again."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellwright.errors import MissingPackageError

OPSET = 18
IR_VERSION = 8  # the oldest format that has this opset: onnxruntime 1.14 and newer read it

KINDS = {torch.float32: "FLOAT", torch.float64: "DOUBLE", torch.int64: "INT64", torch.int32: "INT32"}


def import_onnx() -> Any:
    """The package onnx.

    Raises:
        MissingPackageError: it, or onnxruntime, is not installed.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            "exporting needs the packages onnx and onnxruntime", f"{error}", 'pip install "cellwright[onnx]"'
        ) from error
    return onnx


class Nodes:
    """The nodes of a graph, or of the body of a loop in it; constants are the whole graph's.

    Args:
        dtype: of numbers.
        taken: names that are given already.
        around: of a body, the graph around it; its own nodes are called so that no body's can be: with a slash.
    """

    def __init__(self, dtype: torch.dtype, taken: tuple[str, ...] = (), around: Nodes | None = None) -> None:
        self.onnx = import_onnx()
        self.dtype = dtype
        self.prefix = "" if around else "/"
        self.nodes: list[Any] = []
        self.names: set[str] = {*taken, *(around.names if around else ())}
        self.constants: dict[str, NDArray[Any]] = around.constants if around else {}
        self._known: dict[Any, tuple[str, ...]] = {}
        self._kept: dict[Any, str] = around._kept if around else {}

    def name(self, wanted: str) -> str:
        """A name that nothing has yet."""
        found, count = wanted, 1
        while found in self.names or found in self.constants:
            count += 1
            found = f"{wanted}_{count}"
        self.names.add(found)
        return found

    def call(self, op: str, *inputs: str, name: str = "", doc: str = "", **attributes: Any) -> str:
        """The result of an operator, with its name if that is free."""
        return self.calls(op, inputs, (name or self.prefix + op.lower(),), doc, **attributes)[0]

    def calls(
        self, op: str, inputs: tuple[str, ...], names: tuple[str, ...], doc: str = "", **attributes: Any
    ) -> tuple[str, ...]:
        """The results of an operator; those of an equal node where there is one."""
        key = (op, inputs, len(names), *((key, str(value)) for key, value in attributes.items()))
        if key not in self._known:
            outputs = tuple(self.name(name) if name else "" for name in names)
            self.nodes.append(self.onnx.helper.make_node(op, inputs, outputs, doc_string=doc or None, **attributes))
            self._known[key] = outputs
        return self._known[key]

    def constant(self, value: Tensor | NDArray[Any], name: str) -> str:
        """A constant array, kept once."""
        array = np.asarray(value.detach().numpy() if isinstance(value, Tensor) else value, order="C")
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._kept:
            self._kept[key] = self.name(name)
            self.constants[self._kept[key]] = array
        return self._kept[key]

    def number(self, value: float) -> str:
        """A number (1, 1), of the type of the graph."""
        return self.constant(torch.tensor([[value]], dtype=self.dtype), f"{value:g}")

    def ints(self, *values: int) -> str:
        """A list of whole numbers, as shapes and places are."""
        return self.constant(np.array(values, np.int64), f"[{','.join(map(str, values))}]")

    def give(self, value: str, name: str) -> str:
        """Let a value leave the graph under this name, which nothing else has."""
        self.nodes.append(self.onnx.helper.make_node("Identity", [value], [name]))
        return name

    def kind(self, dtype: torch.dtype) -> int:
        """ONNX's number of a type."""
        return int(getattr(self.onnx.TensorProto, KINDS[dtype]))

    def declare(self, name: str, dtype: torch.dtype, shape: tuple[int | str, ...]) -> Any:
        """The declaration of an input or output."""
        return self.onnx.helper.make_tensor_value_info(name, self.kind(dtype), shape)

    def graph(self, name: str, inputs: list[Any], outputs: list[Any], doc: str = "") -> Any:
        """The graph of these nodes; the constants are in the one around all others."""
        arrays = self.constants.items() if self.prefix else ()
        kept = [self.onnx.numpy_helper.from_array(array, constant) for constant, array in arrays]
        return self.onnx.helper.make_graph(self.nodes, name, inputs, outputs, kept, doc_string=doc or None)
