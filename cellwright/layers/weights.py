"""Weights: to and from torch.nn and Keras."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from cellwright.cells import Cell
from cellwright.errors import SettingError, ShapeError
from cellwright.kernels.torch_nn import stacked_weights
from cellwright.layers.recurrent import Recurrent
from cellwright.layers.standard import GRU, LSTM, RNN

M = TypeVar("M", bound=nn.Module)
OURS: dict[type[nn.RNNBase], type[RNN | GRU | LSTM]] = {nn.RNN: RNN, nn.GRU: GRU, nn.LSTM: LSTM}
# The order in which Keras has the gates, in places of torch.nn's: i f g o, r z n.
KERAS = {"LSTM": (0, 1, 2, 3), "GRU": (1, 0, 2), "RNN": (0,)}


def from_torch(layer: nn.RNNBase) -> RNN | GRU | LSTM:
    """Our layer with the settings and a copy of the weights of one of torch.nn.

    >>> theirs = nn.LSTM(3, 5, num_layers=2, bidirectional=True)
    >>> ours, x = from_torch(theirs), torch.randn(7, 2, 3)
    >>> torch.allclose(ours(x)[0], theirs(x)[0], atol=1e-6)
    True

    Raises:
        SettingError: it is not torch.nn's RNN, GRU or LSTM.
    """
    kind = next((ours for theirs, ours in OURS.items() if type(layer) is theirs), None)
    if kind is None:
        raise SettingError("from_torch takes torch.nn.RNN, GRU or LSTM", type(layer).__name__, "pass one of those")
    return _filled(kind(**_settings(layer)), layer)


def to_torch(layer: RNN | GRU | LSTM | Recurrent) -> nn.RNNBase:
    """The layer of torch.nn with the settings and a copy of the weights of ours.

    >>> from cellwright.cells import LSTM as Cell
    >>> ours, x = Recurrent(Cell(3, 5)), torch.randn(7, 2, 3)
    >>> torch.allclose(to_torch(ours)(x)[0], ours(x)[0], atol=1e-6)
    True

    Args:
        layer: RNN, GRU, LSTM, or a Recurrent of the cells that torch.nn has.

    Raises:
        SettingError: torch.nn has no such layer.
    """
    if isinstance(layer, Recurrent):
        return _from_cells(layer)
    if not layer._plain() or "h0" in layer._parameters:
        raise SettingError(
            "to_torch gives what torch.nn has: a reset gate after the product, and no learned first state",
            str(layer),
            "keep this layer, or export it",
        )
    return _filled(layer.torch_class(**_settings(layer)), layer)


def from_keras(weights: Sequence[Any], kind: str, **settings: Any) -> RNN | GRU | LSTM:
    """Our layer with the weights of a Keras layer, as its `get_weights()` gives them.

    >>> H, I = 5, 3
    >>> layer = from_keras([np.zeros((I, 4 * H)), np.zeros((H, 4 * H)), np.zeros(4 * H)], "LSTM")
    >>> layer
    LSTM(3, 5)

    Args:
        weights: kernel (I, G*H), recurrent kernel (H, G*H) and, if there is one, bias: (G*H,), or (2, G*H) of a GRU
            with reset_after=True, which is Keras's own default.
        kind: "LSTM", "GRU" or "RNN" (Keras: SimpleRNN).
        settings: of our layer, such as batch_first.

    Raises:
        SettingError: the kind is none of those.
        ShapeError: the weights do not fit together.
    """
    if kind not in KERAS:
        raise SettingError(f"kind is one of {', '.join(KERAS)}", repr(kind), "write kind='LSTM', say")
    arrays = [np.asarray(one) for one in weights]
    gates = len(KERAS[kind])
    hidden = arrays[1].shape[0] if len(arrays) > 1 else 0
    shapes = [one.shape for one in arrays]
    bias_shapes = [(gates * hidden,), *([(2, gates * hidden)] if kind == "GRU" else [])]
    right = len(arrays) in (2, 3) and shapes[1] == (hidden, gates * hidden) and shapes[0][1:] == (gates * hidden,)
    if not right or (len(arrays) == 3 and shapes[2] not in bias_shapes):
        raise ShapeError(
            f"the weights of a Keras {kind} are (I, {gates}H), (H, {gates}H) and a bias of {gates}H",
            ", ".join(map(str, shapes)),
            "pass layer.get_weights() of one layer and one direction",
        )
    if kind == "GRU":
        settings = {"reset_after": len(arrays) == 3 and arrays[2].ndim == 2, **settings}
    classes: dict[str, type[RNN | GRU | LSTM]] = {"RNN": RNN, "GRU": GRU, "LSTM": LSTM}
    layer = classes[kind](shapes[0][0], hidden, bias=len(arrays) == 3, **settings)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(_reordered(arrays[0].T, kind))
        layer.weight_hh_l0.copy_(_reordered(arrays[1].T, kind))
        if len(arrays) == 3:
            both = arrays[2] if arrays[2].ndim == 2 else np.stack([arrays[2], np.zeros_like(arrays[2])])
            layer.bias_ih_l0.copy_(_reordered(both[0], kind))
            layer.bias_hh_l0.copy_(_reordered(both[1], kind))
    return layer


def to_keras(layer: RNN | GRU | LSTM) -> list[np.ndarray[Any, Any]]:
    """The weights of a layer of one layer and direction, as `set_weights()` of its like in Keras takes them.

    >>> [one.shape for one in to_keras(GRU(3, 5))]
    [(3, 15), (5, 15), (2, 15)]

    Raises:
        SettingError: Keras has a layer for every direction, and none with a projection.
    """
    if layer.num_layers > 1 or layer.bidirectional or layer.proj_size:
        raise SettingError(
            "a Keras layer is one layer in one direction, without projection", str(layer), "convert one layer at a time"
        )
    kind = type(layer).__name__
    kernel = _reordered(layer.weight_ih_l0.detach().numpy(), kind).T.numpy()
    recurrent = _reordered(layer.weight_hh_l0.detach().numpy(), kind).T.numpy()
    if not layer.bias:
        return [kernel, recurrent]
    biases = [_reordered(getattr(layer, name).detach().numpy(), kind).numpy() for name in ("bias_ih_l0", "bias_hh_l0")]
    apart = isinstance(layer, GRU) and layer.reset_after
    return [kernel, recurrent, np.stack(biases) if apart else biases[0] + biases[1]]


def _reordered(rows: Any, kind: str) -> Tensor:
    """Blocks of rows from torch.nn's order to Keras's, or back: both only ever exchange two."""
    blocks = np.split(np.asarray(rows), len(KERAS[kind]))
    return torch.from_numpy(np.concatenate([blocks[place] for place in KERAS[kind]]))


def _settings(layer: nn.RNNBase) -> dict[str, Any]:
    names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
    found = {name: getattr(layer, name) for name in names}
    found |= {"proj_size": layer.proj_size} if layer.mode == "LSTM" else {}
    found |= {"nonlinearity": layer.mode[4:].lower()} if layer.mode.startswith("RNN") else {}
    weight = next(layer.parameters())
    return {**found, "device": weight.device, "dtype": weight.dtype}


def _filled(made: M, other: nn.Module) -> M:
    made.load_state_dict(other.state_dict())
    return made.train(other.training)


def _from_cells(layer: Recurrent) -> nn.RNNBase:
    kinds = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN, "rnn_relu": nn.RNN}
    cell = layer.first_cell
    form = cell.torch_form()
    if form is None or any(type(one) is not type(cell) for one in layer.cells):
        raise SettingError(
            "to_torch takes cells that torch.nn has: RNN, GRU with the reset after the product, LSTM",
            repr(cell),
            "keep this layer, or export it",
        )
    settings: dict[str, Any] = {"nonlinearity": form.kernel[4:]} if form.kernel.startswith("rnn") else {}
    sizes = (cell.input_size, cell.hidden_size, layer.num_layers)
    settings |= {"batch_first": layer.batch_first, "bidirectional": layer.bidirectional}
    settings |= {"dropout": layer.dropout.share} if layer.num_layers > 1 else {}
    weight = next(cell.parameters())
    made: nn.RNNBase = kinds[form.kernel](*sizes, device=weight.device, dtype=weight.dtype, **settings)
    for place, one in enumerate(layer.cells):
        assert isinstance(one, Cell)
        _copy_stacked(one, made, *divmod(place, layer.directions))
    return made.train(layer.training)


@torch.no_grad()
def _copy_stacked(cell: Cell, made: nn.RNNBase, layer: int, direction: int) -> None:
    form = cell.torch_form()
    assert form is not None
    suffix = f"_l{layer}{'_reverse' if direction else ''}"
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    for name, weight in zip(names, stacked_weights(cell, form), strict=True):
        getattr(made, name + suffix).copy_(weight)
