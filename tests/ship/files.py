"""Exported files as their readers see them: run in onnxruntime, with no part of the exporter."""

import onnx
import onnxruntime
import torch


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path, *inputs):
    """What the file gives, as tensors, for inputs in its order."""
    ran = session(path) if not hasattr(path, "run") else path
    named = {one.name: tensor.numpy() for one, tensor in zip(ran.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(array) for array in ran.run(None, named)]


def nodes(path):
    """The nodes of the file, outside of loops."""
    return list(onnx.load(path).graph.node)


def operators(path):
    """Its recurrent operators."""
    return [node.op_type for node in nodes(path) if node.op_type in ("RNN", "GRU", "LSTM", "Scan")]


def setting(node, name):
    """An attribute of a node."""
    (found,) = (onnx.helper.get_attribute_value(one) for one in node.attribute if one.name == name)
    return found


def body(path):
    """The nodes of the first loop's body, by the name of their result."""
    scan = next(node for node in nodes(path) if node.op_type == "Scan")
    return {node.output[0]: node for node in setting(scan, "body").node}


def drawn(layer, steps, batch):
    """x, and a state for every cell, none of them negative: some cells divide by what they carry."""
    cell, dtype = layer.first_cell, next(layer.parameters(), torch.empty(0)).dtype
    shape = (batch, steps) if layer.batch_first else (steps, batch)
    states = [torch.rand(len(layer.cells), batch, size, dtype=dtype) for size in cell.state_sizes]
    return torch.randn(*shape, cell.input_size, dtype=dtype), states


def assert_runs_alike(path, layer, steps, batch, lengths=None, atol=1e-5):
    """The file gives what the layer gives, to a share of the largest number."""
    x, states = drawn(layer, steps, batch)
    given = [x, *states, *([] if lengths is None else [torch.tensor(lengths)])]
    with torch.no_grad():
        y, last = layer(x, tuple(states) if len(states) > 1 else states[0], lengths)
    wanted = [y, *(last if isinstance(last, tuple) else (last,))]
    for found, value in zip(run(path, *given), wanted, strict=True):
        assert found.shape == value.shape
        assert (found - value).abs().max() <= atol * max(1, value.abs().max())
