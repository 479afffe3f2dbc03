"""Adapt: cells that others wrote, `cell(x, state)`, as cells of this library, unchanged."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cellwright.cells.cell import Cell, on_one_line
from cellwright.errors import CellError

MOST_STATES = 6  # that are tried to find out how many a module carries
ROWS = 3  # of the trial: no cell takes three states for one state of three rows, or the other way about


class Adapted(Cell):
    """A module `module(x, state)` as a cell; made by `adapt`."""

    state = ()  # of each object its own: see adapt

    def __init__(self, module: nn.Module, input_size: int, state_sizes: tuple[int, ...], output_size: int) -> None:
        super().__init__(input_size, state_sizes[0])
        self.module = module
        self._state_sizes = state_sizes
        self._output_size = output_size
        names = ("h", "c") if len(state_sizes) <= 2 else tuple(f"s{place}" for place in range(len(state_sizes)))
        self.__dict__["state"] = names[: len(state_sizes)]

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return self._state_sizes

    @property
    def output_size(self) -> int:
        return self._output_size

    def step(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        result = self.module(x, state[0] if len(state) == 1 else tuple(state))
        return tuple(_flat(result))

    def again(self, **changes: Any) -> Adapted:
        """A copy with weights of its own; built anew where the module's class says how."""
        sizes = {"input_size": self.input_size, **changes}
        if isinstance(self.module, nn.RNNCellBase):
            given = {"nonlinearity": self.module.nonlinearity} if isinstance(self.module, nn.RNNCell) else {}
            weight = self.module.weight_ih
            kind: Any = type(self.module)
            made = kind(sizes["input_size"], self.hidden_size, bias=self.module.bias, **given)
            return adapt(made.to(weight.device, weight.dtype))
        if sizes["input_size"] != self.input_size:
            raise CellError(
                "a foreign cell is copied only for the same number of inputs",
                f"{type(self.module).__name__} for {self.input_size}, needed for {sizes['input_size']}",
                "give Recurrent a list with a cell for each layer",
            )
        other = Adapted(copy.deepcopy(self.module), self.input_size, self._state_sizes, self._output_size)
        for part in other.modules():
            if callable(getattr(part, "reset_parameters", None)):
                part.reset_parameters()  # type: ignore[operator]
        return other

    def extra_repr(self) -> str:
        return f"{self.input_size}, states of {', '.join(map(str, self._state_sizes))}"

    def in_one_line(self) -> str:
        return on_one_line(type(self.module).__name__, self.extra_repr())


def adapt(
    module: nn.Module,
    input_size: int | None = None,
    state_sizes: int | Sequence[int] | None = None,
    output_size: int | None = None,
) -> Adapted:
    """A foreign cell, ready for `Recurrent`.

    >>> import torch
    >>> adapt(torch.nn.LSTMCell(3, 5)).state
    ('h', 'c')

    Args:
        module: takes `(x, state)` with x (B, I) and a state (B, H) or a tuple of them; returns the new state
            in the same form, or `(output, new state)`.
        input_size: columns of x; default: `module.input_size`.
        state_sizes: columns of each state; default: `module.hidden_size`, once or as often as the module takes it.
        output_size: columns of the output; default: found out by one call.

    Raises:
        CellError: sizes are missing, or a call with them does not give back states of those sizes.
    """
    columns = input_size if input_size is not None else getattr(module, "input_size", None)
    sizes = state_sizes if state_sizes is not None else getattr(module, "hidden_size", None)
    if not isinstance(columns, int) or sizes is None:
        raise CellError(
            "a foreign cell has input_size and hidden_size, or is adapted with its sizes",
            f"{type(module).__name__} without them",
            "write cw.adapt(cell, input_size=28, state_sizes=(256,)), with your sizes",
        )
    fixed = state_sizes is not None and not isinstance(state_sizes, int)
    tried = [tuple(sizes)] if fixed else [(int(sizes),) * count for count in range(1, MOST_STATES + 1)]  # type: ignore[arg-type]
    problems: list[str] = []
    for widths in tried:
        found = _try(module, columns, widths, problems)
        if found is not None and output_size in (None, found):
            return Adapted(module, columns, widths, found)
    raise CellError(
        "a foreign cell takes (x, state) and returns the new state, or (output, new state)",
        f"{type(module).__name__}, which did not for states of {' or '.join(map(str, tried))}: {problems[0]}",
        "write cw.adapt(cell, input_size=..., state_sizes=...) with the columns of every state, or a cw.Cell around it",
    )


def _try(module: nn.Module, columns: int, widths: tuple[int, ...], problems: list[str]) -> int | None:
    """The columns of the output if the module takes and returns states of these widths."""
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    state = [like.new_zeros(ROWS, width) for width in widths]
    training = [part for part in module.modules() if part.training]
    try:
        module.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            result = module(like.new_zeros(ROWS, columns), state[0] if len(state) == 1 else tuple(state))
    except Exception as error:  # whatever a stranger's code raises for states that it does not expect
        problems.append(f"{type(error).__name__}: {error}".splitlines()[0])
        return None
    finally:
        for part in training:
            part.training = True
    values = list(_flat(result))
    shapes = [tuple(value.shape) if isinstance(value, Tensor) else None for value in values]
    wanted = [tuple(one.shape) for one in state]
    if shapes[-len(wanted) :] == wanted and len(shapes) - len(wanted) in (0, 1):
        return int(values[0].shape[1])
    problems.append(f"it returned {shapes}")
    return None


def _flat(result: Any) -> Iterator[Any]:
    if isinstance(result, (tuple, list)):
        for value in result:
            yield from _flat(value)
    else:
        yield result
