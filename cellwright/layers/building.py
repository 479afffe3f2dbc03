"""Building: the cells of all layers and directions, from one cell or from a list that is checked."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from cellwright.cells import Cell, adapt
from cellwright.errors import CellError


def build(cell: nn.Module | Sequence[nn.Module], layers: int, directions: int) -> list[Cell]:
    """The cells of a layer: layer 0 forward, layer 0 backward, layer 1 ...

    >>> from cellwright.cells import GRU
    >>> build(GRU(3, 5), layers=2, directions=2)[2]
    GRU(10, 5)

    Args:
        cell: one that all are built like, with weights of their own; or a list of all.
        layers: how many on top of each other.
        directions: 1, or 2 where each layer reads both ways.

    Raises:
        CellError: the list of cells does not fit the layers.
    """
    count = layers * directions
    if isinstance(cell, nn.Module) and not isinstance(cell, (Cell, nn.ModuleList)):
        cell = adapt(cell)
    if isinstance(cell, Cell):
        above = {"input_size": cell.output_size * directions}
        rest = [cell.again(**(above if place >= directions else {})) for place in range(1, count)]
        weight = next(cell.parameters(), None)
        return [cell, *(rest if weight is None else [one.to(weight.device, weight.dtype) for one in rest])]
    if not isinstance(cell, (Sequence, nn.ModuleList)):
        given = f"the class {cell.__name__}" if isinstance(cell, type) else f"an object of {type(cell).__name__}"
        raise CellError("cell is a Cell, or a list of them", given, "write cw.Recurrent(cw.cells.GRU(28, 16)), say")
    cells = [one if isinstance(one, Cell) or not isinstance(one, nn.Module) else adapt(one) for one in cell]
    if len(cells) != count or not all(isinstance(one, Cell) for one in cells):
        given = ", ".join(type(one).__name__ for one in cell)
        raise CellError(
            f"a list of cells has one Cell for each layer and direction, here {count}",
            f"{len(cell)}: {given}",
            "write one cell for each, or a single cell to build all like it",
        )
    checked = [one for one in cells if isinstance(one, Cell)]
    for place in range(len(checked)):
        _check(place, checked, directions)
    return checked


def _check(place: int, cells: list[Cell], directions: int) -> None:
    """A layer reads what the one below shows, its directions match, and the states of all have the same names."""
    start = place - place % directions  # of its layer
    cell, first, below = cells[place], cells[start], cells[max(start - directions, 0) : start]
    inputs = sum(one.output_size for one in below) if below else cells[0].input_size
    wanted = (cells[0].state, inputs, _sizes(first.state_sizes), first.output_size)
    found = (cell.state, cell.input_size, _sizes(cell.state_sizes), cell.output_size)
    if wanted != found:
        raise CellError(
            "cell {} of this list has states {}, {} inputs, {} units and {} outputs".format(place, *wanted),
            "{} with states {}, {} inputs, {} units and {} outputs".format(cell, *found),
            "change that cell, or stack layers of one cell each by hand",
        )


def _sizes(sizes: tuple[int, ...]) -> int | tuple[int, ...]:
    return sizes[0] if len(set(sizes)) == 1 else sizes
