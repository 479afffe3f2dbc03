"""Against ONNX Runtime's LSTM and GRU operators: inference, the same weights in an ONNX file made here."""

from __future__ import annotations

import argparse
from typing import Any

import numpy
import onnx
import onnxruntime
from common import GATES, OUTPUTS, Row, Shape, Work, agree, finish, inference, inputs, measure, options, start
from machine import peak, versions
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

import cellwright as cw

OPSET, FORMAT = 17, 8
ORDER = {"LSTM": "iofg", "GRU": "zrn"}  # of the gates, in ONNX
CELLS = {
    "lstm": cw.cells.LSTM,
    "gru": cw.cells.GRU,
    "gru-reset-before": lambda columns, units: cw.cells.GRU(columns, units, reset_after=False),
}


def main() -> None:
    given = options(__doc__, cells=CELLS, rounds=7).parse_args()
    start(given)
    given.peak = peak(given.threads)
    rows = [row_of(name, size, given) for size in given.shapes for name in given.cells]
    finish(f"ONNX Runtime ({versions('onnxruntime', 'onnx')})", rows, given)


def row_of(name: str, size: Shape, given: argparse.Namespace) -> Row:
    """Check and time one cell in one shape."""
    cell = CELLS[name](size.I, size.H)
    ours = cw.Recurrent(cell, backend="c")
    x, _ = inputs(size)
    works = rival(cell, x, given.threads), inference(lambda: ours(x)[0])
    difference = agree(f"outputs of {name} {size}", works[1].call(), works[0].call()[:, 0], OUTPUTS)
    operator = f"ONNX {type(cell).__name__}"
    gates = GATES[type(cell).__name__.lower()]
    return measure((operator, name, "infer"), size, works, gates, difference, given, versions("onnxruntime"))


def rival(cell: cw.Cell, x: Tensor, threads: int) -> Work:
    """A session over one operator, its input and output bound so that nothing is copied; gives (T, 1, B, H)."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(
        model(cell, x).SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    given = onnxruntime.OrtValue.ortvalue_from_numpy(x.numpy())
    result = onnxruntime.OrtValue.ortvalue_from_shape_and_type([len(x), 1, x.shape[1], cell.hidden_size], numpy.float32)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", given)
    binding.bind_ortvalue_output("y", result)

    def call() -> Any:
        session.run_with_iobinding(binding)
        return result.numpy()  # a view

    return Work(call)


def model(cell: cw.Cell, x: Tensor) -> onnx.ModelProto:
    """The cell as an ONNX model of one operator."""
    operator = type(cell).__name__
    settings = {"linear_before_reset": int(cell.reset_after)} if isinstance(cell, cw.cells.GRU) else {}
    node = helper.make_node(operator, ["x", "W", "R", "B"], ["y"], hidden_size=cell.hidden_size, **settings)
    weights = [numpy_helper.from_array(value, name) for name, value in stacked(cell, ORDER[operator]).items()]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", list(x.shape)), ("y", [len(x), 1, x.shape[1], cell.hidden_size]))
    ]
    graph = helper.make_graph([node], "layer", ends[:1], ends[1:], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=FORMAT)
    onnx.checker.check_model(made)
    return made


def stacked(cell: cw.Cell, order: str) -> dict[str, Any]:
    """W (1, G*H, I), R (1, G*H, H) and B (1, 2*G*H): the inputs' biases, then the recurrent ones."""
    values = {name: one.detach().numpy() for name, one in cell.named_parameters()}
    zeros = numpy.zeros(cell.hidden_size, numpy.float32)
    biases = [values[f"b_{gate}"] for gate in order] + [values.get(f"b_h{gate}", zeros) for gate in order]
    return {
        "W": numpy.concatenate([values[f"W_x{gate}"].T for gate in order])[None],
        "R": numpy.concatenate([values[f"W_h{gate}"].T for gate in order])[None],
        "B": numpy.concatenate(biases)[None],
    }


if __name__ == "__main__":
    main()
