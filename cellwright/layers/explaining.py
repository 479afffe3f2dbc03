"""Explaining: what runs the cells of a layer and why, in words and in C."""

from __future__ import annotations

from collections.abc import Iterator

from cellwright.cells import Cell
from cellwright.kernels import Choice


class Explaining:
    """A layer that tells what runs its cells."""

    @property
    def directions(self) -> int:
        """2 where every layer also reads from the end, else 1."""
        raise NotImplementedError

    def chosen(self) -> Iterator[tuple[Cell, Choice]]:
        """Every cell and its backend, layer by layer, in each forward before backward."""
        raise NotImplementedError

    def choices(self) -> Iterator[Choice]:
        """The backend of every cell, layer by layer, in each forward before backward."""
        for _, choice in self.chosen():
            yield choice

    def explain(self) -> str:
        """Which backend runs every cell, why, and its plan: what is done before, in and after the loop over time.

        >>> import cellwright as cw
        >>> print(cw.Recurrent(cw.cells.RNN(3, 5), backend="eager").explain())
        layer 0, forward: RNN(3, 5)
          backend eager; asked for by name: the equations step by step in a Python loop
        >>> print(cw.LSTM(3, 5, backend="torch").explain())
        layer 0, forward: StackedLSTM(3, 5, bias=True, proj_size=0)
          backend torch; asked for by name: PyTorch's own LSTM runs it
        """
        return "\n".join(line for place, one in enumerate(self.chosen()) for line in self._lines(place, *one))

    def _lines(self, place: int, cell: Cell, choice: Choice) -> Iterator[str]:
        layer, direction = divmod(place, self.directions)
        yield f"layer {layer}, {'backward' if direction else 'forward'}: {cell.in_one_line()}"
        yield f"  backend {choice.backend}; {choice.reason}"
        if choice.entry is not None and choice.entry.fused is not None:
            yield from (f"    {line}" for line in str(choice.entry.fused.program).splitlines())

    def source(self) -> str:
        """The C that was generated for the cells of this layer: each once, in the order of the cells.

        >>> import cellwright as cw
        >>> cw.Recurrent(cw.cells.RNN(3, 5), backend="eager").source()
        ''
        """
        entries = [choice.entry for choice in self.choices()]
        texts = [entry.fused.code.text for entry in entries if entry is not None and entry.fused is not None]
        return "\n".join(dict.fromkeys(texts))
