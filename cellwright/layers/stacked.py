"""Stacked: what RNN, GRU and LSTM have in common: torch.nn's weights and checks, run by cells of ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from cellwright.cells import Cell
from cellwright.cells.stacked import (
    Template,
    template,
)
from cellwright.errors import SettingError
from cellwright.kernels import BACKENDS, Choice, choose, run_weights
from cellwright.kernels.torch_nn import run_torch
from cellwright.layers.explaining import Explaining
from cellwright.layers.sequences import Batch, Part, Runner, State, from_packed, stack, to_given
from cellwright.layers.states import States
from cellwright.layers.stream import Stream, refuse_stream
from cellwright.step import Ragged

FUSED = (torch.float32, torch.float64)


class Standard(Explaining, nn.RNNBase):
    """What the three have in common: torch.nn's weights and checks, cells of our own on them."""

    torch_class: ClassVar[type[nn.RNNBase]]
    weight_ih_l0: nn.Parameter
    weight_hh_l0: nn.Parameter
    bias_ih_l0: nn.Parameter
    bias_hh_l0: nn.Parameter
    h0: nn.Parameter
    c0: nn.Parameter

    def __init__(
        self, mode: str, *sizes: Any, backend: str, orthogonal: bool, learn_state: bool, **settings: Any
    ) -> None:
        if backend not in BACKENDS:
            raise SettingError(f"backend is one of {', '.join(BACKENDS)}", repr(backend), "write backend='auto'")
        inputs, hidden, *rest = sizes
        self.hidden_sizes = _hidden_sizes(hidden, rest[0])
        super().__init__(mode, inputs, self.hidden_sizes[0], *rest, **settings)
        if len(set(self.hidden_sizes)) > 1:
            self._resize(settings)
        self.backend = backend
        if orthogonal:
            self._make_orthogonal()
        if learn_state:
            self._add_states(settings.get("device"), settings.get("dtype"))

    def _resize(self, settings: dict[str, Any]) -> None:
        """Make the weights of layers that have a size of their own."""
        gates, directions = self._gates(), 2 if self.bidirectional else 1
        for layer, hidden in enumerate(self.hidden_sizes):
            inputs = self._inputs(layer)
            shapes: dict[str, tuple[int, ...]] = {
                "weight_ih": (gates * hidden, inputs),
                "weight_hh": (gates * hidden, self.proj_size or hidden),
            }
            shapes |= {
                "bias_ih": (gates * hidden,),
                "bias_hh": (gates * hidden,),
                "weight_hr": (self.proj_size, hidden),
            }
            for direction in range(directions):
                for name, own in self._names(layer, direction).items():
                    weight = torch.empty(shapes[name], device=settings.get("device"), dtype=settings.get("dtype"))
                    setattr(self, own, nn.Parameter(nn.init.uniform_(weight, -(hidden**-0.5), hidden**-0.5)))

    def _gates(self) -> int:
        rows: int = self.weight_hh_l0.shape[0]
        return rows // int(self.hidden_sizes[0])

    def cell(self, layer: int) -> Cell:
        """The cell of a layer, without weights of its own."""
        return template(*self._kind(layer))

    def _kind(self, layer: int) -> Template:
        hidden = self.hidden_sizes[layer]
        return (self._cell_class(), self._inputs(layer), hidden, self.bias, self.proj_size, self._first().dtype)

    def _inputs(self, layer: int) -> int:
        """Columns that a layer reads."""
        shown = self.proj_size or self.hidden_sizes[layer - 1]
        return shown * self.directions if layer else self.input_size

    def _first(self) -> Tensor:
        """A parameter, for its type and device."""
        own = next(iter(self._parameters.values()), None)
        return next(self.parameters()) if own is None else own

    def _layout(self) -> States:
        """How the states look from outside."""
        names = ("h", "c")[: 2 if self.mode == "LSTM" else 1]
        directions = 2 if self.bidirectional else 1
        widths = [(self.proj_size or hidden, hidden)[: len(names)] for hidden in self.hidden_sizes]
        return States(names, tuple(one for one in widths for _ in range(directions)), directions)

    def _cell_class(self) -> Any:
        raise NotImplementedError

    def _plain(self) -> bool:
        """Whether torch.nn has these equations."""
        return True

    # Weights.

    def _names(self, layer: int, direction: int) -> dict[str, str]:
        """Of a cell's weights, what they are called in torch.nn."""
        suffix = f"_l{layer}{'_reverse' if direction else ''}"
        names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if self.bias else [])]
        names += ["weight_hr"] if self.proj_size else []
        return {name: name + suffix for name in names}

    def cell_weights(self, layer: int, direction: int = 0) -> dict[str, Tensor]:
        """The weights of a layer's cell, as the cell calls them."""
        return {name: getattr(self, own) for name, own in self._names(layer, direction).items()}

    @torch.no_grad()
    def _make_orthogonal(self) -> None:
        for name, weight in self.named_parameters():
            if name.startswith("weight_hh"):
                for block in weight.chunk(self._gates()):
                    nn.init.orthogonal_(block)

    def _add_states(self, device: Any, dtype: Any) -> None:
        rows, widths = self.num_layers * self.directions, self._layout().widths[0]
        if len(set(self.hidden_sizes)) > 1:
            raise SettingError(
                "first states are learned where all layers have one size",
                f"hidden_size={list(self.hidden_sizes)}",
                "leave out learn_state, or write cw.Recurrent with a LearnedState around every cell",
            )
        for name, width in zip(("h0", "c0"), widths, strict=False):
            self.register_parameter(name, nn.Parameter(torch.zeros(rows, width, device=device, dtype=dtype)))

    def stream(self, batch_size: int = 1) -> Stream:
        """One step at a time, with the state carried from call to call: see `Stream`."""
        if self.bidirectional:
            refuse_stream()
        states = self._learned(self.weight_ih_l0.new_empty(1, batch_size, 1)) if "h0" in self._parameters else None
        rows = [states] if isinstance(states, Tensor) else states
        first = [None if rows is None else tuple(s[layer] for s in rows) for layer in range(self.num_layers)]
        cells = [(*part, state) for part, state in zip(self.parts(), first, strict=True)]
        return Stream(cells, self.backend, batch_size)

    def chosen(self) -> Iterator[tuple[Cell, Choice]]:
        """Every cell and its backend, layer by layer, in each forward before backward."""
        first, words = self._first(), self.mode.split("_")[0]
        for layer in range(self.num_layers):
            cell = self.cell(layer)
            if self._plain() and (self.backend == "torch" or first.device.type != "cpu" or first.dtype not in FUSED):
                why = "asked for by name" if self.backend == "torch" else f"for {first.dtype} on {first.device.type}"
                choice = Choice("torch", run_torch, f"{why}: PyTorch's own {words} runs it")
            else:
                choice = choose(cell, self.backend, first.detach())
            yield from [(cell, choice)] * self.directions

    def parts(self) -> list[Part]:
        """Every cell and its weights, layer by layer, in each forward before backward."""
        return [
            Part(self.cell(layer), self.cell_weights(layer, direction))
            for layer in range(self.num_layers)
            for direction in range(self.directions)
        ]

    @property
    def directions(self) -> int:
        """2 where every layer also reads from the end, else 1."""
        return 2 if self.bidirectional else 1

    # Forward.

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As torch.nn's: (y, h) of an RNN or GRU, (y, (h, c)) of an LSTM.

        Args:
            input: (T, B, I), with batch_first (B, T, I), unbatched (T, I), or a PackedSequence.
            hx: the states before the first step, each (L*D, B, H), unbatched (L*D, H); None: zeros, or those learned.
        """
        if torch.is_autocast_enabled("cpu") and self._first().is_cpu and self.backend != "torch":
            return self._without_autocast(input, hx)
        if hx is None and "h0" in self._parameters:
            hx = self._learned(input)
        if self.backend == "torch" or not self._fits(input, hx):
            given: Any = self.torch_class.forward(self, input, hx)  # its own words where the input is wrong
            if self._plain():
                return given
        return self.through(self._run_cell, input, hx)

    def _without_autocast(self, input: Any, hx: Any) -> Any:
        """Under autocast on the CPU the loops run in the type of the weights, and give it."""
        dtype = self._first().dtype
        input = input.to(dtype)
        hx = hx if hx is None else hx.to(dtype) if isinstance(hx, Tensor) else tuple(one.to(dtype) for one in hx)
        with torch.autocast("cpu", enabled=False):
            return self.forward(input, hx)

    def _learned(self, input: Any) -> Any:
        batched = isinstance(input, PackedSequence) or input.dim() == 3
        if isinstance(input, PackedSequence):
            size = int(input.batch_sizes[0])
        else:
            size = input.shape[0 if self.batch_first else 1] if batched else 1
        states = [self.h0, *([self.c0] if "c0" in self._parameters else [])]
        wide = [s.unsqueeze(1).expand(-1, size, -1) if batched else s for s in states]
        return wide[0] if len(wide) == 1 else tuple(wide)

    def _fits(self, input: Any, hx: Any) -> bool:
        """Whether input and states are what our loops run on; where not, torch.nn says what is wrong, or runs it."""
        x = input.data if isinstance(input, PackedSequence) else input
        packed = isinstance(input, PackedSequence)
        weight = self._first()
        if not isinstance(x, Tensor) or x.dim() not in ((2,) if packed else (2, 3)) or x.numel() == 0:
            return False
        right = x.shape[-1] == self.input_size and x.dtype == weight.dtype and x.device == weight.device
        if not right or x.dtype not in FUSED or not x.is_cpu:
            return False
        if hx is None:
            return True
        if packed:
            rows: int | None = int(input.batch_sizes[0])
        else:
            rows = x.shape[0 if self.batch_first else 1] if x.dim() == 3 else None
        return self._layout().fit((hx,) if self.mode != "LSTM" else hx, x, rows)

    def through(self, run: Runner, input: Any, hx: Any = None) -> Any:
        """As a call of the layer, whose cells are run by `run(number, x, state, ragged)`, in equations of ours."""
        if hx is None and "h0" in self._parameters:
            hx = self._learned(input)
        batched = isinstance(input, PackedSequence) or input.dim() == 3
        batch = self._batch(input, batched)
        layout = self._layout()
        first = self._zeros(batch) if hx is None else layout.unpack(hx, batch, batched)
        y, last = stack(batch, first, run, self.directions, self._between)
        given = to_given(batch, y)
        if not isinstance(given, PackedSequence):
            given = given.squeeze(1) if not batched else given.transpose(0, 1) if self.batch_first else given
        return given, layout.pack(last, batch, batched)

    def _batch(self, input: Any, batched: bool) -> Batch:
        if isinstance(input, PackedSequence):
            return from_packed(input, None)
        if not batched:
            return Batch(input.unsqueeze(1))
        return Batch(input.transpose(0, 1) if self.batch_first else input)

    def _zeros(self, batch: Batch) -> list[State | None]:
        """None, for which compiled loops need no memory, but in graphs, which ask for B here only."""
        widths = self._layout().widths
        if not torch.compiler.is_compiling():
            return [None] * len(widths)
        rows = batch.rows()
        return [tuple([batch.x.new_zeros(rows, width) for width in cell]) for cell in widths]

    def _run_cell(self, place: int, x: Tensor, state: State | None, ragged: Ragged | None) -> tuple[Tensor, State]:
        layer, direction = divmod(place, self.directions)
        return run_weights(self._kind(layer), self.cell_weights(layer, direction), self.backend, x, state, ragged)

    def _between(self, y: Tensor, batch: Batch) -> Tensor:
        return nn.functional.dropout(y, self.dropout, self.training) if self.dropout else y


def _hidden_sizes(given: Any, layers: Any) -> tuple[Any, ...]:
    """The size of every layer."""
    if not isinstance(given, (tuple, list)):
        return (given,) * (layers if isinstance(layers, int) and layers > 0 else 1)  # torch.nn refuses others
    whole = all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in given)
    if not whole or len(given) != layers:
        raise SettingError(
            f"hidden_size is a whole number, or one for each of num_layers={layers}",
            f"{given!r}",
            f"write num_layers={len(given)} with {len(given)} sizes of 1 or more",
        )
    return tuple(given)
