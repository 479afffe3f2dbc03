"""Stack: the cells of any layer with their weights, which is all that exporting it needs to know."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import cellwright
from cellwright.cells import Cell
from cellwright.errors import ExportError
from cellwright.layers import Recurrent
from cellwright.layers.stacked import Standard
from cellwright.text.model import LanguageModel

DTYPES = (torch.float32, torch.float64)


class Stack(NamedTuple):
    """Cells layer by layer and direction by direction, each with its weights and buffers by name."""

    cells: tuple[Cell, ...]
    weights: tuple[dict[str, Tensor], ...]
    directions: int
    batch_first: bool
    dtype: torch.dtype
    learned: tuple[Tensor, ...]
    """The first states, each (L*D, H), where the layer learned them; else none: zeros."""


def evaluated(model: nn.Module) -> nn.Module:
    """A copy of a model on the CPU that evaluates step by step in PyTorch.

    Raises:
        ExportError: it is no model of ours, or not in float32 or float64.
    """
    if not isinstance(model, (Recurrent, Standard, LanguageModel)):
        raise ExportError(
            "what is exported is a cw.Recurrent, RNN, GRU, LSTM, or the language model of a run",
            f"{type(model).__module__}.{type(model).__qualname__}",
            "give your cell to cw.Recurrent, or make a layer of torch.nn ours: cw.from_torch(layer)",
        )
    dtype = _dtype(model)
    if dtype not in DTYPES:
        raise ExportError("exported models are float32 or float64", f"{dtype}", "convert it first: model.float()")
    own = copy.deepcopy(model).cpu().eval()
    layer_of(own).backend = "eager"
    return own


def layer_of(model: nn.Module) -> Any:
    """The recurrent layer of a model."""
    return model.recurrent if isinstance(model, LanguageModel) else model


def stack_of(layer: Any) -> Stack:
    """The cells of a layer."""
    found = list(_cells_of_torch(layer) if isinstance(layer, Standard) else _cells(layer))
    learned = [getattr(layer, name) for name in ("h0", "c0") if name in layer._parameters]
    cells, weights = zip(*found, strict=True)
    return Stack(cells, weights, 2 if layer.bidirectional else 1, layer.batch_first, _dtype(layer), tuple(learned))


def described(model: nn.Module) -> dict[str, str]:
    """What a file says of the model in it."""
    layer, stack = layer_of(model), stack_of(layer_of(model))
    sizes = {"cell": stack.cells[0], "num_layers": layer.num_layers, "bidirectional": layer.bidirectional}
    return {"cellwright": cellwright.__version__, **{name: str(value) for name, value in sizes.items()}}


def _cells(layer: Any) -> Iterator[tuple[Cell, dict[str, Tensor]]]:
    for cell in layer.cells:
        yield cell, {**dict(cell.named_parameters()), **dict(cell.named_buffers())}


def _cells_of_torch(layer: Any) -> Iterator[tuple[Cell, dict[str, Tensor]]]:
    for number in range(layer.num_layers):
        for direction in range(2 if layer.bidirectional else 1):
            cell = copy.deepcopy(layer.cell(number)).to_empty(device="cpu").requires_grad_(False)
            cell.load_state_dict(layer.cell_weights(number, direction))
            yield cell, dict(cell.named_parameters())


def _dtype(model: nn.Module) -> torch.dtype:
    return next((weight.dtype for weight in model.parameters()), torch.float32)
