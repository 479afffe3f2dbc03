"""Recurrent: one forward for every cell, stacked, bidirectional, batched or not."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from cellwright.cells import Cell, Feed
from cellwright.errors import SettingError
from cellwright.kernels import Choice, choose, run_cell
from cellwright.layers.building import build
from cellwright.layers.dropout import Dropout
from cellwright.layers.explaining import Explaining
from cellwright.layers.inputs import batch_of, cast, from_time_first, map_tensors
from cellwright.layers.sequences import Batch, Part, Runner, State, places, stack, to_given
from cellwright.layers.states import States
from cellwright.layers.stream import Stream, refuse_stream
from cellwright.step import Ragged


class Recurrent(Explaining, nn.Module):
    """A layer that runs a cell over whole sequences.

    >>> import torch
    >>> from cellwright.cells import LSTM
    >>> layer = Recurrent(LSTM(28, 16), num_layers=2, bidirectional=True)
    >>> y, (h, c) = layer(torch.zeros(7, 3, 28))   # x (T, B, I)
    >>> y.shape, h.shape
    (torch.Size([7, 3, 32]), torch.Size([4, 3, 16]))

    Args:
        cell: the cell of the first layer; the others are built like it, with weights of their own. Or a
            list of cells, one for each layer and direction: layer 0 forward, layer 0 backward, layer 1 ...;
            layers may have different sizes then.
            A module `cell(x, state)` that others wrote, such as torch.nn.GRUCell, is adapted (see `adapt`).
        num_layers: layers on top of each other (default 1).
        bidirectional: whether a second cell reads every layer's input from its end (default: no).
        batch_first: whether x and y are (B, T, ...) instead of (T, B, ...) (default: no).
        dropout: share of every layer's output, but the last's, that is zeroed in training (default 0).
        held_dropout: hold every mask of it through time (default: no).
        backend: "auto" (default), or one of `cellwright.kernels.BACKENDS` by name; `explain()` says which runs.

    Raises:
        CellError: the list of cells does not fit the layers.
        BackendError: the backend was named and cannot run the cell.
    """

    def __init__(
        self,
        cell: nn.Module | Sequence[nn.Module],
        num_layers: int = 1,
        bidirectional: bool = False,
        batch_first: bool = False,
        dropout: float = 0.0,
        held_dropout: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if isinstance(num_layers, bool) or not isinstance(num_layers, int) or num_layers < 1:
            raise SettingError("num_layers is a whole number of at least 1", repr(num_layers), "write num_layers=1")
        self.num_layers, self.bidirectional, self.batch_first = num_layers, bidirectional, batch_first
        self.cells = nn.ModuleList(build(cell, num_layers, self.directions))
        self.dropout = Dropout(dropout, held_dropout)
        if dropout and num_layers == 1:
            warnings.warn("dropout acts between layers and there is one: it does nothing", stacklevel=2)
        self.backend = backend
        if backend != "auto":
            for _ in self.choices():  # refuse an impossible backend now, not at the first batch
                pass

    @property
    def directions(self) -> int:
        """2 where every layer also reads from the end, else 1."""
        return 2 if self.bidirectional else 1

    def chosen(self) -> Iterator[tuple[Cell, Choice]]:
        """Every cell and its backend, in the order of `cells`."""
        for cell in self._cells():
            yield cell, choose(cell, self.backend)

    def _cells(self) -> tuple[Cell, ...]:
        cells: Any = self._modules["cells"]  # a walk through nn.Module's own lookup takes longer
        return tuple(cells._modules.values())

    @property
    def first_cell(self) -> Cell:
        """The cell of the first layer, which says what the states are called and how x looks."""
        return self._cells()[0]

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: Tensor | State | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Any, Any]:
        """Run the layer.

        >>> import torch
        >>> from cellwright.cells import GRU
        >>> layer = Recurrent(GRU(3, 5))
        >>> y, h = layer(torch.randn(4, 2, 3), lengths=[4, 2])   # the second sequence ends after two steps
        >>> y[2:, 1].abs().sum().item(), torch.equal(h[0, 1], y[1, 1])
        (0.0, True)

        Args:
            x: (T, B, I), with batch_first (B, T, I), unbatched (T, I); or a PackedSequence.
            state: what a call before returned, or None for zeros: a tensor (L*D, B, H) where the cell has
                one state, a tuple of them where it has more; (L*D, H) unbatched. Where layers have different
                sizes, each is a tuple of tensors (D, B, H), one for each layer.
            lengths: steps of every sequence (B,), where they are not all T; what lies beyond costs nothing.
            resets: bool, laid out as x without its columns: where a sequence begins anew, from a state of zeros
                (the end of an episode, or of a document). Read backward, a sequence begins anew one step before.

        Returns:
            y: (T, B, D*H), laid out like x; zeros beyond a sequence's length.
            state: the final states, each after its sequence's last step, laid out like the given ones.
        """
        return self.through(self._run, x, state, lengths, resets)

    def through(
        self,
        run: Runner,
        x: Tensor | PackedSequence,
        state: Tensor | State | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Any, Any]:
        """As a call of the layer, whose cells are run by `run(number, x, state, ragged)`."""
        cells = self._cells()
        batch, batched = batch_of(cells[0], self.batch_first, x, lengths, resets)
        states = States(cells[0].state, tuple([cell.state_sizes for cell in cells]), self.directions)
        if state is not None:
            first: Sequence[State | None] = states.unpack(map_tensors(partial(cast, cells[0]), state), batch, batched)
        elif self.backend == "eager" or torch.compiler.is_compiling():
            first = [cell.initial_state(batch.rows(), like=batch.x) for cell in cells]
        else:
            first = [None] * len(cells)  # compiled loops need no memory for zeros
        y, last = stack(batch, first, self._fed(run, cells), self.directions, self._between)
        given = to_given(batch, y)
        given = given if isinstance(given, PackedSequence) else from_time_first(given, batched, self.batch_first)
        return given, states.pack(last, batch, batched)

    def _run(self, place: int, x: Tensor, state: State | None, ragged: Ragged | None) -> tuple[Tensor, State]:
        return run_cell(self._cells()[place], self.backend, x, state, ragged)

    @staticmethod
    def _fed(run: Runner, cells: tuple[Cell, ...]) -> Runner:
        """The same on what cells read in place of x, where they read something else."""
        if all(type(cell).feed is Cell.feed for cell in cells):
            return run

        def fed(place: int, x: Tensor, state: State | None, ragged: Ragged | None) -> tuple[Tensor, State]:
            cell = cells[place]
            if ragged is None:
                return run(place, cell.feed(Feed(x)).x, state, None)
            given = cell.feed(Feed(x, places(ragged)[1], ragged.resets))
            return run(place, given.x, state, ragged._replace(resets=given.resets))

        return fed

    def _between(self, y: Tensor, batch: Batch) -> Tensor:
        return self.dropout(y) if batch.ragged is None else self.dropout.packed(y, places(batch.ragged)[1])

    def stream(self, batch_size: int = 1) -> Stream:
        """One step at a time, with the state carried from call to call: see `Stream`.

        >>> import torch
        >>> from cellwright.cells import GRU
        >>> layer = Recurrent(GRU(3, 5))
        >>> stream, x = layer.stream(), torch.randn(4, 1, 3)
        >>> y = torch.stack([stream(x_t) for x_t in x])
        >>> torch.allclose(y, layer(x)[0], atol=1e-6)
        True

        Args:
            batch_size: rows B of every step.

        Raises:
            SettingError: the layer is bidirectional.
        """
        if self.bidirectional:
            refuse_stream()
        return Stream([(*part, None) for part in self.parts()], self.backend, batch_size)

    def parts(self) -> list[Part]:
        """Every cell and its weights, layer by layer, in each forward before backward."""
        return [Part(cell, {**dict(cell.named_parameters()), **dict(cell.named_buffers())}) for cell in self._cells()]

    def extra_repr(self) -> str:
        return (
            f"num_layers={self.num_layers}, bidirectional={self.bidirectional}, "
            f"batch_first={self.batch_first}, backend={self.backend!r}"
        )
