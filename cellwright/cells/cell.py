"""Cell: a recurrent cell as its equations, an `nn.Module` with one method `step`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from cellwright.cells.feed import Feed
from cellwright.cells.init import Scheme, uniform
from cellwright.errors import CellError

C = TypeVar("C", bound="Cell")


class TorchForm(NamedTuple):
    """How a cell's gates stand in the stacked weights of torch.nn: the kernel and the order of the gates."""

    kernel: str
    order: tuple[str, ...]


def _no_step(cell: Cell, x: Tensor, *state: Tensor) -> Any:
    raise CellError(
        "a cell needs a method step(self, x, ...) with its equations",
        f"{type(cell).__name__} without one",
        f"define step(self, x, {', '.join(cell.state)}) and return the new states",
    )


class Cell(nn.Module):
    """One step of a recurrent network, written as its equations in plain PyTorch.

    >>> class Leaky(Cell):
    ...     state = ("h",)
    ...     gates = {"h": "hidden state"}
    ...     def __init__(self, input_size, hidden_size):
    ...         super().__init__(input_size, hidden_size)
    ...         self.add_gates()
    ...     def step(self, x, h):
    ...         return 0.9 * h + 0.1 * torch.tanh(x @ self.W_xh + h @ self.W_hh + self.b_h)
    >>> cell = Leaky(3, 5)
    >>> cell(torch.zeros(2, 3), *cell.initial_state(2)).shape
    torch.Size([2, 5])

    A subclass says in `state` which values it carries from step to step, in `gates` what its gates are
    called, and in `step` how the next state follows. `step(x, *state)` takes x (B, I) and each state
    (B, H) and returns the new states in the order of `state`; the output y is the first of them, or one
    extra value returned before them. Weights are drawn as torch.nn draws its own, but for those that
    `drawn` names, each with a scheme from `cellwright.cells.init`.

    Args:
        input_size: columns I of the input x.
        hidden_size: columns H of every state.

    Raises:
        CellError: a size is not a positive whole number.
    """

    state: ClassVar[tuple[str, ...]] = ("h",)
    gates: ClassVar[dict[str, str]] = {}
    drawn: ClassVar[dict[str, Scheme]] = {}
    step: Callable[..., Any] = _no_step

    def __getattr__(self, name: str) -> Any:  # of parameters, whose names follow from the gates'
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            if name.startswith(("W_x", "W_h", "b_")) and not self.__dict__.get("roles"):
                raise AttributeError(f"{error}: call self.add_gates() in __init__ to create it") from None
            raise

    def __new__(cls: type[C], *args: Any, **kwargs: Any) -> C:
        cell = super().__new__(cls)
        bound = inspect.signature(cls.__init__).bind_partial(cell, *args, **kwargs)
        self_name = next(iter(bound.arguments))
        arguments = {name: value for name, value in bound.arguments.items() if name != self_name}
        object.__setattr__(cell, "_arguments", arguments)
        return cell

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = positive("input_size", input_size)
        self.hidden_size = positive("hidden_size", hidden_size)
        self.roles: dict[str, tuple[str, str]] = {}  # of each parameter: its gate, and what it does there

    @property
    def output_size(self) -> int:
        """Columns of y; a cell whose output is not its first state says how many it has."""
        return self.hidden_size

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Columns of every state; a cell whose states are not all of hidden_size says how many they have."""
        return (self.hidden_size,) * len(self.state)

    @property
    def fed_size(self) -> int:
        """Columns that `step` reads; more than input_size where `feed` puts some beside x."""
        return self.input_size

    def feed(self, given: Feed) -> Feed:
        """What the steps of a whole call read; a cell that needs chance, or to know of resets, adds columns to x."""
        return given

    def add_gates(self, bias: bool = True) -> None:
        """Create W_x{gate} (I, H), W_h{gate} (H, H) and b_{gate} (H) for every entry of `gates`."""
        for gate in self.gates:
            self.add_gate(gate, "xh")
            self.add_bias(f"b_{gate}", gate, "bias", bias)

    def add_gate(self, gate: str, parts: str = "xhb") -> None:
        """Create what one gate is made of, a letter a part: x for W_x{gate}, h for W_h{gate}, b for b_{gate}."""
        if "x" in parts:
            self.add_weight(f"W_x{gate}", gate, "input weight", self.input_size, self.hidden_size)
        if "h" in parts:
            self.add_weight(f"W_h{gate}", gate, "recurrent weight", self.hidden_size, self.hidden_size)
        if "b" in parts:
            self.add_weight(f"b_{gate}", gate, "bias", self.hidden_size)

    def add_weight(self, name: str, gate: str, role: str, *shape: int) -> None:
        """Create a parameter of this shape that plays a role in a gate."""
        scheme = self.drawn.get(name, uniform)
        self.register_parameter(name, nn.Parameter(scheme(torch.empty(shape), self.hidden_size)))
        self.roles[name] = (gate, role)

    def add_bias(self, name: str, gate: str, role: str, exists: bool = True) -> None:
        """Create a bias (H), or zeros that are not trained, so that the equations stay the same without it."""
        if exists:
            self.add_weight(name, gate, role, self.hidden_size)
        else:
            self.register_buffer(name, torch.zeros(self.hidden_size), persistent=False)

    def begin(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """The states that a step goes on from, given what it reads."""
        return state

    def forward(self, x: Tensor, *state: Tensor) -> Any:
        if x.shape[1] == self.input_size != self.fed_size:  # one step by itself, not within a call
            x = self.feed(Feed(x.unsqueeze(0))).x[0]
        return self.step(x, *state)

    def torch_form(self) -> TorchForm | None:
        """Which kernel of torch.nn computes exactly these equations; None where none does."""
        return None

    def initial_state(self, batch_size: int, like: Tensor | None = None) -> tuple[Tensor, ...]:
        """Zeros (B, size) for every state, with the type and device of `like` (default: of the weights)."""
        like = next(self.parameters(), torch.empty(0)) if like is None else like
        return tuple(like.new_zeros(batch_size, size) for size in self.state_sizes)

    def split_output(self, result: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What `step` returned, as the output y and the tuple of new states."""
        values = tuple(result) if isinstance(result, (tuple, list)) else (result,)
        if all(isinstance(value, Tensor) for value in values):
            if len(values) == len(self.state):
                return values[0], values
            if len(values) == len(self.state) + 1:
                return values[0], values[1:]
        kinds = ", ".join("a tensor" if isinstance(value, Tensor) else type(value).__name__ for value in values)
        raise CellError(
            f"step returns the new states ({', '.join(self.state)}), or one output and then those",
            f"{kinds} from {type(self).__name__}.step",
            f"return {', '.join(self.state)}",
        )

    def again(self: C, **changes: Any) -> C:
        """A new cell built with the same arguments, but for `changes`, and with weights of its own."""
        made: type[C] = type_before_parametrizations(self)
        try:
            return made(**{**self._arguments, **changes})
        except TypeError as error:
            raise CellError(
                "a cell that is built again for another layer takes (self, input_size, hidden_size, ...)",
                f"{made.__name__}: {error}",
                "name those arguments in __init__, or give Recurrent a list with a cell for each layer",
            ) from error

    def extra_repr(self) -> str:
        given = {name: value for name, value in self._arguments.items() if name not in ("input_size", "hidden_size")}
        sizes = [str(self.input_size), str(self.hidden_size)]
        return ", ".join(sizes + [f"{name}={value!r}" for name, value in given.items()])

    def in_one_line(self) -> str:
        """Its class and settings, without the modules inside."""
        return on_one_line(type(self).__name__, self.extra_repr())


def on_one_line(name: str, *settings: str) -> str:
    """A name and what it was made with, whatever lines that takes by itself."""
    return " ".join(f"{name}({', '.join(filter(None, settings))})".split())


def positive(name: str, value: Any) -> int:
    """The value, where it is a size: a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CellError(f"{name} is a whole number of at least 1", f"{name}={value!r}", f"write {name}=1 or more")
    return value
