"""Modified: a cell around a cell, what all modifiers have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from cellwright.cells.adapt import adapt
from cellwright.cells.cell import Cell, on_one_line
from cellwright.cells.feed import Feed
from cellwright.errors import CellError, SettingError


class Modified(Cell):
    """A cell that changes what another one does, and has its states, gates and sizes.

    A modifier that needs columns of its own beside x says in `own` how many, draws them in `columns`, and
    finds them in `step` with `apart`.

    Args:
        cell: the cell that is changed, or a module `cell(x, state)` of others, which is adapted.
    """

    def __init__(self, cell: nn.Module) -> None:
        if not isinstance(cell, nn.Module):
            raise CellError(
                f"{type(self).__name__} changes a cell",
                f"{cell!r}",
                f"write {type(self).__name__}(cw.cells.GRU(28, 16))",
            )
        inner = cell if isinstance(cell, Cell) else adapt(cell)
        super().__init__(inner.input_size, inner.hidden_size)
        self.cell = inner
        self.__dict__["state"] = inner.state
        self.__dict__["gates"] = inner.gates

    @property
    def output_size(self) -> int:
        return self.cell.output_size

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return self.cell.state_sizes

    @property
    def own(self) -> int:
        """Columns beside x that this modifier reads."""
        return 0

    @property
    def fed_size(self) -> int:
        return self.cell.fed_size + self.own

    def columns(self, given: Feed) -> Feed:
        """What is fed to the inner cell, with this modifier's own columns beside it."""
        return given

    def feed(self, given: Feed) -> Feed:
        return self.columns(self.cell.feed(given))

    def apart(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the inner cell reads, and the columns of this one."""
        width = self.cell.fed_size
        return x[:, :width], x[:, width:].detach()

    def begin(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        return self.cell.begin(self.apart(x)[0], *state)

    def initial_state(self, batch_size: int, like: Tensor | None = None) -> tuple[Tensor, ...]:
        return self.cell.initial_state(batch_size, like)

    def inner(self, x: Tensor, *state: Tensor) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """The inner cell's step: its output, None where that is its first state, and its new states."""
        y, new = self.cell.split_output(self.cell.step(x, *state))
        return (None if y is new[0] else y), new

    @staticmethod
    def outcome(y: Tensor | None, states: Sequence[Tensor]) -> Any:
        """What a step returns, in the form that cells have."""
        if y is not None:
            return y, *states
        return tuple(states) if len(states) > 1 else states[0]

    def again(self, **changes: Any) -> Any:
        return super().again(cell=self.cell.again(**changes))

    def extra_repr(self) -> str:
        given = {name: value for name, value in self._arguments.items() if name != "cell"}
        return ", ".join(f"{name}={value!r}" for name, value in given.items())

    def in_one_line(self) -> str:
        return on_one_line(type(self).__name__, self.cell.in_one_line(), self.extra_repr())


def checked_share(name: str, share: Any) -> float:
    """A share of at least 0 and below 1."""
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
        raise SettingError(f"{name} is a share of at least 0 and below 1", repr(share), "write 0.1, say")
    return float(share)
