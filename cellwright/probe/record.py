"""record: every named value of every step, for any cell, over layers, directions and sequences of any lengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from cellwright.errors import SettingError
from cellwright.layers.sequences import from_lengths, places
from cellwright.probe.observe import Observed, as_layer, observe
from cellwright.step import Ragged


@dataclass(frozen=True, repr=False)
class Values(Mapping[str, Tensor]):
    """The named values of one cell, each (T, B, columns), at the places of its input; zeros beyond a sequence's end."""

    cell: str
    named: dict[str, Tensor]
    state: tuple[str, ...]
    gates: dict[str, str]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.named:
            raise SettingError(
                "a recording holds what the cell's author called by a name in step",
                f"{name!r} of {self.cell}",
                f"write one of {', '.join(self.named)}",
            )
        return self.named[name]

    def __contains__(self, name: object) -> bool:
        return name in self.named

    def __iter__(self) -> Iterator[str]:
        return iter(self.named)

    def __len__(self) -> int:
        return len(self.named)

    def __repr__(self) -> str:
        words = {**{name: f"state {name}" for name in self.state}, **self.gates}
        width = max(map(len, self.named))
        lines = [f"{n:<{width}}  {tuple(v.shape)}  {words.get(n, '')}".rstrip() for n, v in self.named.items()]
        return "\n".join((self.cell, *(f"  {line}" for line in lines)))


@dataclass(frozen=True, repr=False)
class RecordedLayer:
    """One layer: its cells, one for each direction."""

    directions: tuple[Values, ...]

    def __getitem__(self, name: str) -> Tensor:
        values: Values = _only(self.directions, "direction", "directions")
        return values[name]


@dataclass(frozen=True, repr=False)
class Recording:
    """What happened inside of a layer: `recording["i"]` where there is one cell, else `.layers[0].directions[1]["i"]`.

    `output` is exactly what the layer returned; `lengths` (B,) are the steps of every sequence.
    """

    layers: tuple[RecordedLayer, ...]
    lengths: Tensor
    output: Any

    def __getitem__(self, name: str) -> Tensor:
        layer: RecordedLayer = _only(self.layers, "layer", "layers")
        return layer[name]

    def cells(self) -> Iterator[tuple[str, Values]]:
        """Every cell's values, with words for where it is."""
        for number, layer in enumerate(self.layers):
            for values, direction in zip(layer.directions, ("forward", "backward"), strict=False):
                yield f"layer {number}, {direction}", values

    def __repr__(self) -> str:
        return "\n".join(f"{where}: {values!r}" for where, values in self.cells())


def _only(several: Sequence[Any], one: str, all_of: str) -> Any:
    if len(several) > 1:
        raise SettingError(
            f"a value is that of one cell, and this recording has {len(several)} {all_of}",
            f"a name without its {one}",
            f"write .{all_of}[0] before it, say",
        )
    return several[0]


def record(
    layer: nn.Module,
    x: Tensor | PackedSequence,
    state: Any = None,
    lengths: Tensor | Sequence[int] | None = None,
    resets: Tensor | None = None,
) -> Recording:
    """Run a layer, and keep every value that its cells' authors called by a name.

    >>> from cellwright.cells import LSTM
    >>> recording = record(LSTM(3, 5), torch.randn(7, 2, 3))
    >>> recording
    layer 0, forward: LSTM(3, 5)
      i  (7, 2, 5)  input gate
      f  (7, 2, 5)  forget gate
      o  (7, 2, 5)  output gate
      g  (7, 2, 5)  cell candidate
      h  (7, 2, 5)  state h
      c  (7, 2, 5)  state c
    >>> torch.equal(recording["h"], recording.output[0])
    True

    The cell's twin, which gives all these values as its output, runs on the same backend: one forward pass.

    Args:
        layer: a Recurrent, cw.RNN, cw.GRU, cw.LSTM, or a cell.
        x: as the layer takes it: (T, B, I), with batch_first (B, T, I), unbatched (T, I), or a PackedSequence.
        state: the states before the first step; None: zeros, or those learned.
        lengths: steps of every sequence (B,), where they are not all T.
        resets: where sequences begin anew, as Recurrent takes them.

    Returns:
        The recording; all its values are (T, B, columns), whatever the layout of x.

    Raises:
        CellError: the module is no cell or layer of ours.
    """
    layer = as_layer(layer)
    seen, output = observe(layer, x, state, lengths, resets)
    order, steps = _order(x, lengths, layer.batch_first)
    count = layer.directions
    values = [_values(one, order, place % count == 1, steps) for place, one in enumerate(seen)]
    layers = [RecordedLayer(tuple(values[place : place + count])) for place in range(0, len(values), count)]
    return Recording(tuple(layers), _lengths(seen[0], order), output)


def _order(x: Any, lengths: Any, batch_first: bool) -> tuple[Tensor | None, int]:
    """Of a packed batch the places of its sequences in the given one, and the steps T of that."""
    if isinstance(x, PackedSequence):
        return x.sorted_indices, len(x.batch_sizes)
    if lengths is None:
        return None, x.shape[1 if batch_first and x.dim() == 3 else 0]
    B, T = x.shape[:2] if batch_first else x.shape[1::-1]
    return from_lengths(torch.empty(T, B, 1), lengths, None).order, T


def _values(seen: Observed, order: Tensor | None, backward: bool, steps: int) -> Values:
    named = {name: _laid_out(value, seen.ragged, order, backward, steps) for name, value in seen.named.items()}
    return Values(seen.part.cell.in_one_line(), named, seen.part.cell.state, seen.part.cell.gates)


def _laid_out(rows: Tensor, ragged: Ragged | None, order: Tensor | None, backward: bool, steps: int) -> Tensor:
    """Values as (T, B, columns), in the order of time and of the given batch."""
    if ragged is None:
        return rows.flip(0) if backward else rows
    step, number = places(ragged)
    if backward:
        step = torch.bincount(number)[number] - 1 - step
    result = rows.new_zeros(steps, int(ragged.starts[1]), rows.shape[1])  # (T, B, columns)
    result[step, number if order is None else order[number]] = rows
    return result


def _lengths(seen: Observed, order: Tensor | None) -> Tensor:
    if seen.ragged is None:
        return torch.full((seen.x.shape[1],), seen.x.shape[0])
    found = torch.bincount(places(seen.ragged)[1])
    return found if order is None else torch.empty_like(found).index_put_((order,), found)
