"""ONNX: layers and language models as ONNX files, for any length and batch size, checked before they are written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cellwright.ship.check import Exported, Runner, check_and_write, in_words
from cellwright.ship.layers import add_layers, begin
from cellwright.ship.nodes import IR_VERSION, OPSET, Nodes, import_onnx
from cellwright.ship.signature import Signature, signature_of
from cellwright.ship.stack import Stack, described, evaluated, layer_of, stack_of
from cellwright.text.model import LanguageModel, OneHot


def export_onnx(
    model: nn.Module,
    path: str | Path,
    lengths: bool = False,
    state: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> Exported:
    """Write a layer or a language model, as it evaluates, to an ONNX file that runs at any length and batch size.

    >>> import tempfile
    >>> from cellwright.layers import LSTM
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     exported = export_onnx(LSTM(28, 16), f"{directory}/layer.onnx")
    >>> print(*exported.signature.inputs, sep="; ")
    x (T, B, 28) float32; h_0 (1, B, 16) float32; c_0 (1, B, 16) float32
    >>> print(*exported.signature.outputs, sep="; ")
    y (T, B, 16) float32; h_n (1, B, 16) float32; c_n (1, B, 16) float32

    Cells that ONNX has an operator for (RNN, both forms of GRU, LSTM; in float32) become that operator, any other
    one an ONNX Scan with its step as the body, in the names of its author. The file is run in onnxruntime against
    the model, at three lengths and batch sizes, before it is written.

    Args:
        model: a `cw.Recurrent`, `RNN`, `GRU`, `LSTM`, or the language model of a run; float32 or float64.
        path: the file to write.
        lengths: whether the lengths of the sequences (B,) are an input too, int64; y is zero beyond them, and the
            last states are those of each sequence's end (default: all are as long).
        state: whether the first states are inputs, each (L*D, B, H); without, every sequence begins with zeros, or
            with the state that the layer learned (default: they are).
        metadata: words to keep in the file, beside the version of Cellwright and the cell.

    Returns:
        What was written: its str() lists inputs, outputs and the check.

    Raises:
        ExportError: a step cannot be traced, or the file computes something else than the model.
        MissingPackageError: onnx or onnxruntime is missing.
    """
    own = evaluated(model)
    signature = signature_of(own, lengths, state)
    content = _file(own, signature, {**described(own), **(metadata or {})})
    return check_and_write(Path(path), content, f"ONNX opset {OPSET}", _runner(content, signature), own, signature)


# The graph.


def _file(model: nn.Module, signature: Signature, metadata: Mapping[str, str]) -> bytes:
    onnx, stack = import_onnx(), stack_of(layer_of(model))
    values = (*signature.inputs, *signature.outputs)
    nodes = Nodes(stack.dtype, tuple(value.name for value in values))
    with torch.no_grad():
        results = _model(nodes, model, stack, signature)
    for value, result in zip(signature.outputs, results, strict=True):
        nodes.give(result, value.name)
    inputs, outputs = ([nodes.declare(*value) for value in side] for side in (signature.inputs, signature.outputs))
    graph = nodes.graph("cellwright", inputs, outputs, str(model))
    opset = [onnx.helper.make_opsetid("", OPSET)]
    made = onnx.helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="cellwright")
    onnx.helper.set_model_props(made, dict(metadata))
    with in_words("the checker of ONNX accepts"):
        onnx.checker.check_model(made, full_check=True)
        return bytes(made.SerializeToString())


def _model(nodes: Nodes, model: nn.Module, stack: Stack, signature: Signature) -> list[str]:
    """The output, and the last states."""
    x = signature.inputs[0].name
    if isinstance(model, LanguageModel):
        x = _embedded(nodes, model.embed, x)
    x = nodes.call("Transpose", x, perm=[1, 0, 2]) if stack.batch_first else x
    given = {value.name for value in signature.inputs}
    names = [f"{name}_0" for name in stack.cells[0].state]
    first = [name if name in given else begin(nodes, stack, place, x) for place, name in enumerate(names)]
    y, last = add_layers(nodes, stack, x, first, "lengths" if "lengths" in given else "")
    y = nodes.call("Transpose", y, perm=[1, 0, 2]) if stack.batch_first else y
    if isinstance(model, LanguageModel):
        weight = nodes.call("Transpose", nodes.constant(model.output.weight, "output.weight"), perm=[1, 0])
        y = nodes.call("Add", nodes.call("MatMul", y, weight), nodes.constant(model.output.bias, "output.bias"))
    return [y, *last]


def _embedded(nodes: Nodes, embed: nn.Module, tokens: str) -> str:
    """The vectors of tokens (T, B, E)."""
    if isinstance(embed, OneHot):
        wide = nodes.call("Unsqueeze", tokens, nodes.ints(-1))
        alike = nodes.call("Equal", wide, nodes.constant(torch.arange(embed.size), "/every token"))
        return nodes.call("Cast", alike, to=nodes.kind(nodes.dtype))
    assert isinstance(embed, nn.Embedding)
    return nodes.call("Gather", nodes.constant(embed.weight, "embed.weight"), tokens)


def _runner(content: bytes, signature: Signature) -> Runner:
    """Runs the file in onnxruntime.

    Raises:
        ExportError: onnxruntime does not read it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    with in_words("onnxruntime reads"):
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(inputs: list[Tensor]) -> list[Tensor]:
        named = {value.name: tensor.numpy() for value, tensor in zip(signature.inputs, inputs, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, named)]

    return run
