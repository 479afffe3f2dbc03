"""Observe: a layer runs as ever, and every named value of every step of every cell is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Union

import torch
from torch import Tensor, nn

from cellwright.cells import Cell, adapt
from cellwright.cells.adapt import Adapted
from cellwright.cells.stacked import StackedGRU, StackedLSTM, StackedReluRNN, StackedRNN, template
from cellwright.errors import CellError
from cellwright.kernels import beginning, choose, run_with
from cellwright.layers import Recurrent
from cellwright.layers.sequences import Part, State
from cellwright.layers.stacked import Standard
from cellwright.probe.twin import named_in, twin
from cellwright.step import Ragged

Layer = Union[Recurrent, Standard]
FORMS: dict[type, Any] = {nn.LSTMCell: StackedLSTM, nn.GRUCell: StackedGRU}  # of others, and which cells they are
RNN_FORMS = {"tanh": StackedRNN, "relu": StackedReluRNN}


class Observed(NamedTuple):
    """One cell over one batch: what it read, and what its author called by a name, laid out as x."""

    part: Part
    x: Tensor
    first: State
    ragged: Ragged | None
    named: dict[str, Tensor]


def as_layer(module: nn.Module) -> Layer:
    """A layer as it is, or one of a single cell, of ours or of others.

    Raises:
        CellError: the module is neither.
    """
    if isinstance(module, (Recurrent, Standard)):
        return module
    if isinstance(module, nn.RNNBase) or not isinstance(module, nn.Module):
        kind = type(module).__name__
        raise CellError(
            "what one looks into is a cell, or a layer of Cellwright",
            f"torch.nn.{kind}" if isinstance(module, nn.RNNBase) else kind,
            "write cw.from_torch(layer)" if isinstance(module, nn.RNNBase) else "pass cw.Recurrent(cell), say",
        )
    return Recurrent(module if isinstance(module, Cell) else adapt(module))


def in_the_open(part: Part) -> Part:
    """Where a cell of torch.nn hides its gates, the one of ours that computes the same on the same weights."""
    module = getattr(part.cell, "module", None)
    form = RNN_FORMS[module.nonlinearity] if type(module) is nn.RNNCell else FORMS.get(type(module))
    if not isinstance(part.cell, Adapted) or module is None or form is None:
        return part
    sizes = (part.cell.input_size, part.cell.hidden_size, module.bias, 0, module.weight_ih.dtype)
    weights = {name.removeprefix("module."): weight for name, weight in part.weights.items()}
    return Part(template(form, *sizes), weights)


class Observer:
    """Runs the cells of a layer in its place: each as its twin.

    Args:
        layer: the layer, which stays as it is.
    """

    def __init__(self, layer: Layer) -> None:
        self.parts = [in_the_open(part) for part in layer.parts()]
        self.backend = "eager" if layer.backend == "eager" else "auto"
        self.exact = layer.backend != "torch" and all(
            open_part.cell is part.cell for open_part, part in zip(self.parts, layer.parts(), strict=True)
        )
        self.seen: dict[int, Observed] = {}

    def run(self, place: int, x: Tensor, state: State | None, ragged: Ragged | None) -> tuple[Tensor, State]:
        """y and the final states, and `seen` grows."""
        cell, weights = self.parts[place]
        state = beginning(cell, x, ragged) if state is None else state
        double = twin(cell)
        self.exact &= choose(double, self.backend, x).backend == choose(cell, self.backend, x).backend
        values, last = run_with(double, weights, self.backend, x, state, ragged)
        named, shown = named_in(double, values)
        self.seen[place] = Observed(self.parts[place], x, state, ragged, named)
        return named[shown], last


@torch.no_grad()
def observe(
    layer: Layer, x: Any, state: Any = None, lengths: Tensor | Sequence[int] | None = None, resets: Tensor | None = None
) -> tuple[list[Observed], Any]:
    """Run a layer and see inside.

    Args:
        layer: the layer.
        x, state, lengths, resets: as the layer takes them.

    Returns:
        Of every cell what was seen, and exactly what the layer returned.
    """
    observer, given = Observer(layer), _given(layer, x, state, lengths, resets)
    dice = torch.get_rng_state()
    with torch.autocast("cpu", enabled=False):
        result = layer.through(observer.run, *given)
    if not observer.exact:  # another kernel may round otherwise: what it returns is what counts
        torch.set_rng_state(dice)
        result = layer(*given)
    return [observer.seen[place] for place in range(len(observer.parts))], result


def _given(layer: Layer, x: Any, state: Any, lengths: Any, resets: Any) -> tuple[Any, ...]:
    if isinstance(layer, Recurrent):
        return x, state, lengths, resets
    if resets is not None:
        raise CellError(
            "resets are read by Recurrent; the layers in the place of torch.nn's have none",
            f"resets for {type(layer).__name__}",
            "write cw.Recurrent(cw.cells.LSTM(28, 256)), say",
        )
    if lengths is None:
        return x, state
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.as_tensor(lengths), layer.batch_first, enforce_sorted=False)
    return packed, state
