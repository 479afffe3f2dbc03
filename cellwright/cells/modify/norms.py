"""Normed: layer norm or RMS norm of what a cell's products give, and of its states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear
from torch.overrides import TorchFunctionMode

from cellwright.cells.modify.modified import Modified
from cellwright.errors import CellError, SettingError

ROWS = 7919  # of the trial that finds the products: a prime that is no size of a cell
PRODUCTS = {torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__, linear}


def _rms_norm(x: Tensor, width: tuple[int, ...], gain: Tensor, shift: Tensor | None, eps: float) -> Tensor:
    y = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * gain
    return y if shift is None else y + shift


NORMS: dict[str, Callable[..., Tensor]] = {"layer": layer_norm, "rms": _rms_norm}


class Normed(Modified):
    r"""Layer norm, or RMS norm, of every product in a cell's equations, and of states that are named.

    >>> from cellwright.cells import LSTM
    >>> cell = Normed(LSTM(3, 5), states=["c"])
    >>> [name for name, _ in cell.named_parameters()][:3]
    ['gain_0', 'gain_1', 'gain_2']

    .. math::
        x W &\to \gamma \odot \frac{x W - \mu}{\sqrt{\sigma^2 + \epsilon}} && \text{layer} \\
        x W &\to \gamma \odot \frac{x W}{\sqrt{\text{mean}((x W)^2) + \epsilon}} && \text{rms}

    Each product has a gain of its own, gain_0, gain_1 ... in the order of the equations; the bias is the cell's. A
    state that is normed, with gain_{state} and shift_{state}, goes on as such into the next step.

    Args:
        cell: a cell whose equations multiply rows by matrices with `@`, matmul, mm or nn.Linear.
        kind: "layer" (default) or "rms".
        products: whether the products are normed (default: yes).
        states: the names of states that are normed (default: none).
        eps: added to what a root is taken of (default 1e-5).

    Source: Ba, Kiros and Hinton (2016), arXiv 1607.06450, equations 20 and 21, where input and recurrent products are
    normed apart; RMS: Zhang and Sennrich (2019), arXiv 1910.07467, equation 4.

    Raises:
        SettingError: no such kind or state.
        CellError: the equations have no such products.
    """

    def __init__(
        self,
        cell: nn.Module,
        kind: str = "layer",
        products: bool = True,
        states: Sequence[str] = (),
        eps: float = 1e-5,
    ) -> None:
        super().__init__(cell)
        if kind not in NORMS:
            raise SettingError(f"a norm is {' or '.join(NORMS)}", repr(kind), "write one of those names")
        if not set(states) <= set(self.state):
            raise SettingError(
                f"states to norm are some of {', '.join(self.state)}", repr(states), "name those of the cell"
            )
        self.kind, self.eps, self.normed = kind, eps, tuple(states)
        self.places: dict[int, int] = self._find_products() if products else {}
        for width, number in zip(self.places.values(), range(len(self.places)), strict=True):
            self.register_parameter(f"gain_{number}", nn.Parameter(torch.ones(width)))
        for name in self.normed:
            width = self.state_sizes[self.state.index(name)]
            self.register_parameter(f"gain_{name}", nn.Parameter(torch.ones(width)))
            self.register_parameter(f"shift_{name}", nn.Parameter(torch.zeros(width)))

    def _find_products(self) -> dict[int, int]:
        """Which of the products in a step are of rows, and their columns."""
        found: dict[int, int] = {}

        def note(number: int, product: Tensor) -> Tensor:
            if product.dim() == 2 and product.shape[0] == ROWS:
                found[number] = product.shape[1]
            return product

        like = next(self.cell.parameters(), torch.empty(0)).detach()
        with torch.no_grad(), torch.random.fork_rng(devices=[]), Products(note):
            self.cell(like.new_zeros(ROWS, self.input_size), *self.cell.initial_state(ROWS, like))
        if not found:
            raise CellError(
                "what is normed are products of rows and a matrix, x @ W, matmul, mm or nn.Linear",
                f"{self.cell} without one",
                "write Normed(cell, products=False, states=['h']), or the norm into the equations",
            )
        return found

    def norm(self, values: Tensor, name: str) -> Tensor:
        """The norm of values (B, columns) with the parameters of that name."""
        gain, shift = getattr(self, f"gain_{name}"), getattr(self, f"shift_{name}", None)
        return NORMS[self.kind](values, (values.shape[1],), gain, shift, self.eps)

    def step(self, x: Tensor, *state: Tensor) -> Any:
        order = {place: str(number) for number, place in enumerate(self.places)}
        with Products(lambda place, product: self.norm(product, order[place]) if place in order else product):
            y, new = self.inner(x, *state)
        states = [self.norm(s, name) if name in self.normed else s for name, s in zip(self.state, new, strict=True)]
        return self.outcome(y, states)


class Products(TorchFunctionMode):
    """While it holds, every product of matrices goes through a function, with its number in the step."""

    def __init__(self, change: Callable[[int, Tensor], Tensor]) -> None:
        super().__init__()
        self.change, self.count = change, -1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in PRODUCTS:
            return func(*args, **kwargs)
        self.count += 1
        bias = None
        if func is linear:  # whose bias comes after the norm
            (x, weight, bias), kwargs = (*args, *kwargs.values(), None)[:3], {}
            args = (x, weight)
        found = self.change(self.count, func(*args, **kwargs))
        return found if bias is None else found + bias
