"""Stacked: what RNN, GRU and LSTM have in common: torch.nn's weights and checks, run by cells of ours."""

from __future__ import annotations

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
from cellwright.kernels import run_weights
from cellwright.layers.sequences import Batch, Part, Runner, State, from_packed, stack, to_given
from cellwright.layers.stream import Stream, refuse_stream
from cellwright.step import Ragged

FUSED = (torch.float32, torch.float64)


class Standard(nn.RNNBase):
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
        if backend not in ("auto", "c", "eager", "torch"):
            raise SettingError("backend is auto, c, eager or torch", repr(backend), "write backend='auto'")
        super().__init__(mode, *sizes, **settings)
        self.backend = backend
        if orthogonal:
            self._make_orthogonal()
        if learn_state:
            self._add_states(settings.get("device"), settings.get("dtype"))

    def cell(self, layer: int) -> Cell:
        """The cell of a layer, without weights of its own."""
        return template(*self._kind(layer))

    def _kind(self, layer: int) -> Template:
        inputs = self.input_size if layer == 0 else (self.proj_size or self.hidden_size) * self.directions
        return (self._cell_class(), inputs, self.hidden_size, self.bias, self.proj_size, self._first().dtype)

    def _first(self) -> Tensor:
        """A parameter, for its type and device."""
        own = next(iter(self._parameters.values()), None)
        return next(self.parameters()) if own is None else own

    def _widths(self) -> tuple[int, ...]:
        """Columns of every state."""
        return (self.proj_size or self.hidden_size, self.hidden_size)[: 2 if self.mode == "LSTM" else 1]

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

    @torch.no_grad()
    def _make_orthogonal(self) -> None:
        for name, weight in self.named_parameters():
            if name.startswith("weight_hh"):
                for block in weight.split(self.hidden_size):  # type: ignore[no-untyped-call]
                    nn.init.orthogonal_(block)

    def _add_states(self, device: Any, dtype: Any) -> None:
        rows = self.num_layers * self.directions
        widths = self._widths()
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

    def parts(self) -> list[Part]:
        """Every cell and its weights, layer by layer, in each forward before backward."""
        return [
            Part(self.cell(layer), self._weights(layer, direction))
            for layer in range(self.num_layers)
            for direction in range(self.directions)
        ]

    def _weights(self, layer: int, direction: int) -> dict[str, Tensor]:
        return {name: getattr(self, own) for name, own in self._names(layer, direction).items()}

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
        if torch.is_autocast_enabled("cpu") and self._first().device.type == "cpu" and self.backend != "torch":
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
        if not right or x.dtype not in FUSED or x.device.type != "cpu":
            return False
        if hx is None:
            return True
        given = (hx,) if isinstance(hx, Tensor) else hx
        widths, rows = self._widths(), self.num_layers * self.directions
        if packed:
            batch: tuple[int, ...] = (int(input.batch_sizes[0]),)
        else:
            batch = (x.shape[0 if self.batch_first else 1],) if x.dim() == 3 else ()
        if isinstance(hx, Tensor) != (len(widths) == 1) or len(given) != len(widths):
            return False
        pairs = zip(given, widths, strict=True)
        return all(
            s.shape == (rows, *batch, width) and s.dtype == x.dtype and s.device == x.device for s, width in pairs
        )

    def through(self, run: Runner, input: Any, hx: Any = None) -> Any:
        """As a call of the layer, whose cells are run by `run(number, x, state, ragged)`, in equations of ours."""
        if hx is None and "h0" in self._parameters:
            hx = self._learned(input)
        batched = isinstance(input, PackedSequence) or input.dim() == 3
        batch = self._batch(input, batched)
        y, last = stack(batch, self._states(batch, hx, batched), run, self.directions, self._between)
        given = to_given(batch, y)
        if not isinstance(given, PackedSequence):
            given = given.squeeze(1) if not batched else given.transpose(0, 1) if self.batch_first else given
        stacked = [torch.stack(one) for one in zip(*last, strict=True)]  # (L*D, B, H) each
        if batch.back is not None:
            stacked = [s.index_select(1, batch.back) for s in stacked]
        stacked = stacked if batched else [s.squeeze(1) for s in stacked]
        return given, stacked[0] if len(stacked) == 1 else tuple(stacked)

    def _batch(self, input: Any, batched: bool) -> Batch:
        if isinstance(input, PackedSequence):
            return from_packed(input, None)
        if not batched:
            return Batch(input.unsqueeze(1))
        return Batch(input.transpose(0, 1) if self.batch_first else input)

    def _states(self, batch: Batch, hx: Any, batched: bool) -> list[State]:
        rows = self.num_layers * self.directions
        if hx is None:
            zeros = [batch.x.new_zeros(batch.rows(), width) for width in self._widths()]
            return [tuple(zeros)] * rows
        tall = [s if batched else s.unsqueeze(1) for s in ((hx,) if isinstance(hx, Tensor) else hx)]
        if batch.order is not None:
            tall = [s.index_select(1, batch.order) for s in tall]
        return [tuple(s[place] for s in tall) for place in range(rows)]

    def _run_cell(self, place: int, x: Tensor, state: State, ragged: Ragged | None) -> tuple[Tensor, State]:
        layer, direction = divmod(place, self.directions)
        return run_weights(self._kind(layer), self._weights(layer, direction), self.backend, x, state, ragged)

    def _between(self, y: Tensor, batch: Batch) -> Tensor:
        return nn.functional.dropout(y, self.dropout, self.training) if self.dropout else y
