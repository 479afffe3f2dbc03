"""What goes around a cell: residual and highway connections, and a first state that is learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cellwright.cells.feed import Feed
from cellwright.cells.init import constant
from cellwright.cells.modify.modified import Modified
from cellwright.errors import CellError


class Residual(Modified):
    r"""A connection past a layer: its output is the cell's, plus its input.

    >>> from cellwright.cells import GRU
    >>> y, h = Residual(GRU(5, 5))(torch.ones(2, 5), torch.zeros(2, 5))
    >>> torch.equal(y, h + 1)
    True

    .. math:: y_t = \text{cell}(x_t, s_{t-1}) + x_t P

    P is the identity where the output is as wide as the input, else learned.

    Args:
        cell: the cell; its states stay as they are.

    Source: He et al. (2016), arXiv 1512.03385, equations 1 and 2; between recurrent layers: Wu et al. (2016), arXiv
    1609.08144, equation 6.
    """

    def __init__(self, cell: nn.Module) -> None:
        super().__init__(cell)
        self.project = self.input_size != self.output_size
        if self.project:
            self.add_weight("P", "", "projection of x", self.input_size, self.output_size)

    def past(self, x: Tensor) -> Tensor:
        """What goes past the cell."""
        x = x[:, : self.input_size]
        return x @ self.P if self.project else x

    def step(self, x: Tensor, *state: Tensor) -> Any:
        y, new = self.inner(x, *state)
        y = (new[0] if y is None else y) + self.past(x)
        return y, *new


class Highway(Residual):
    r"""A gated connection past a layer: a transform gate mixes the cell's output with its input.

    >>> from cellwright.cells import GRU
    >>> y, h = Highway(GRU(3, 5))(torch.ones(2, 3), torch.zeros(2, 5))
    >>> y.shape
    torch.Size([2, 5])

    .. math::
        t_t &= \sigma(x_t W_t + b_t) \\
        y_t &= t_t \odot \text{cell}(x_t, s_{t-1}) + (1 - t_t) \odot x_t P

    P is the identity where the output is as wide as the input, else learned. b_t begins at -1, so that layers
    pass on at first.

    Args:
        cell: the cell; its states stay as they are.

    Source: Srivastava, Greff and Schmidhuber (2015), arXiv 1505.00387, equation 3 with C = 1 - T;
    b_t: section 2.2.
    """

    drawn = {"b_t": constant(-1.0)}

    def __init__(self, cell: nn.Module) -> None:
        super().__init__(cell)
        self.add_weight("W_t", "t", "gate weight", self.input_size, self.output_size)
        self.add_weight("b_t", "t", "bias", self.output_size)

    def step(self, x: Tensor, *state: Tensor) -> Any:
        y, new = self.inner(x, *state)
        t = torch.sigmoid(x[:, : self.input_size] @ self.W_t + self.b_t)
        y = t * (new[0] if y is None else y) + (1 - t) * self.past(x)
        return y, *new


class LearnedState(Modified):
    """A first state that is learned, for the beginning of a sequence and after every reset.

    >>> from cellwright.cells import GRU
    >>> cell = LearnedState(GRU(3, 5))
    >>> cell.first_h.shape, cell.initial_state(2)[0].shape
    (torch.Size([5]), torch.Size([2, 5]))

    Args:
        cell: the cell. The parameters are called first_{state} (H), and are zeros at first.

    Raises:
        CellError: the cell learns one already.
    """

    def __init__(self, cell: nn.Module) -> None:
        super().__init__(cell)
        if any(isinstance(part, LearnedState) for part in self.cell.modules()):
            raise CellError("a first state is learned once", "LearnedState around another one", "leave out one of them")
        for name, size in zip(self.state, self.state_sizes, strict=True):
            self.register_parameter(f"first_{name}", nn.Parameter(torch.zeros(size)))

    def first(self) -> list[Tensor]:
        """The first states, each (H,)."""
        return [getattr(self, f"first_{name}") for name in self.state]

    @property
    def own(self) -> int:
        return 1

    def columns(self, given: Feed) -> Feed:
        """A column that is 1 where a sequence begins anew: the loop itself is told nothing of it."""
        resets = given.resets
        marks = given.x.new_zeros(*given.x.shape[:-1]) if resets is None else (resets != 0).to(given.x.dtype)
        return given.beside(marks.unsqueeze(-1))._replace(resets=None)

    def begin(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        marks = self.apart(x)[1]  # (B, 1)
        return tuple(torch.where(marks > 0, first, old) for first, old in zip(self.first(), state, strict=True))

    def initial_state(self, batch_size: int, like: Tensor | None = None) -> tuple[Tensor, ...]:
        return tuple(first.expand(batch_size, -1) for first in self.first())

    def step(self, x: Tensor, *state: Tensor) -> Any:
        return self.cell.step(self.apart(x)[0], *self.begin(x, *state))
