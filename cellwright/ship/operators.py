"""Operators: cells that ONNX has operators for, RNN, GRU and LSTM, with their weights in ONNX's order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cellwright.cells import GRU, Cell, TorchForm
from cellwright.cells.stacked import Stacked, StackedGRU, StackedGRUBefore, StackedLSTM, StackedReluRNN, StackedRNN
from cellwright.kernels.torch_nn import is_unchanged, stacked_weights, standard_form
from cellwright.ship.nodes import Nodes

Weights = list[Tensor]  # as torch.nn stacks them: (G*H, I), (G*H, H), (G*H,), (G*H,)


class Operator(NamedTuple):
    """An operator of ONNX, where each of its gates stands in torch.nn's weights, and its settings."""

    name: str
    gates: tuple[int, ...]
    settings: dict[str, Any] = {}
    activations: tuple[str, ...] = ()


OPERATORS = {
    "rnn_tanh": Operator("RNN", (0,), activations=("Tanh",)),
    "rnn_relu": Operator("RNN", (0,), activations=("Relu",)),
    "gru": Operator("GRU", (1, 0, 2), {"linear_before_reset": 1}),  # r, z, n -> z, r, h
    "gru_before": Operator("GRU", (1, 0, 2), {"linear_before_reset": 0}),
    "lstm": Operator("LSTM", (0, 3, 1, 2)),  # i, f, g, o -> i, o, f, c
}
STACKED = {
    StackedRNN: "rnn_tanh",
    StackedReluRNN: "rnn_relu",
    StackedGRU: "gru",
    StackedGRUBefore: "gru_before",
    StackedLSTM: "lstm",
}


def operator_of(cell: Cell, dtype: torch.dtype) -> tuple[str, Weights] | None:
    """Which operator computes exactly this cell, by its key in OPERATORS, and the weights; None where none does.

    onnxruntime has them in float32 only.
    """
    if dtype != torch.float32:
        return None
    if isinstance(cell, Stacked) and not cell.proj_size:
        biases = (
            [cell.weight_ih.new_zeros(len(cell.weight_ih))] * 2
            if cell.bias_ih is None
            else [cell.bias_ih, cell.bias_hh]
        )
        return STACKED[type(cell)], [cell.weight_ih, cell.weight_hh, *biases]
    form = standard_form(cell)
    if form is not None:
        return form.kernel, stacked_weights(cell, form)
    if isinstance(cell, GRU) and not cell.reset_after and is_unchanged(cell):
        return "gru_before", stacked_weights(cell, TorchForm("gru", ("r", "z", "n")))
    return None


def operate(
    nodes: Nodes, key: str, weights: Sequence[Weights], prefix: str, x: str, first: Sequence[str], lengths: str
) -> tuple[str, tuple[str, ...]]:
    """Add one operator for a layer, in one or both directions.

    Args:
        nodes: the graph.
        key: of OPERATORS.
        weights: of each direction.
        prefix: of the names of weights and results.
        x: the input (T, B, I).
        first: the states before the first step, each (D, B, H).
        lengths: of the sequences (B,); "" where all are as long.

    Returns:
        The output (T, B, D*H), and the states after each sequence's last step, each (D, B, H).
    """
    operator, directions = OPERATORS[key], len(weights)
    settings = {**operator.settings, "activations": list(operator.activations) * directions}
    arrays = [torch.stack(one) for one in zip(*(_ordered(operator, one) for one in weights), strict=True)]
    names = [nodes.constant(array, f"{prefix}{name}") for array, name in zip(arrays, "WRB", strict=True)]
    counted = nodes.call("Cast", lengths, to=nodes.kind(torch.int32)) if lengths else ""
    y, *last = nodes.calls(
        operator.name,
        (x, *names, counted, *first),
        tuple(f"{prefix}{name}" for name in ("Y", "Y_h", "Y_c")[: 1 + len(first)]),
        hidden_size=weights[0][1].shape[1],
        direction="bidirectional" if directions == 2 else "forward",
        **{name: value for name, value in settings.items() if value != []},
    )
    y = nodes.call("Transpose", y, perm=[0, 2, 1, 3])  # (T, D, B, H) -> (T, B, D, H)
    return nodes.call("Reshape", y, nodes.ints(0, 0, -1), name=f"{prefix}y"), tuple(last)


def _ordered(operator: Operator, weights: Weights) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (G*H, I) and (G*H, H), and both biases in one (2*G*H,), with the gates in ONNX's order."""
    count = len(operator.gates)
    w, r, b_w, b_r = (torch.cat([weight.chunk(count)[gate] for gate in operator.gates]).detach() for weight in weights)
    return w, r, torch.cat([b_w, b_r])
