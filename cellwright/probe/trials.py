"""Trials: several cells on a memory task, at several lengths, from several seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median
from typing import Any

from cellwright.probe.solve import Learning, Trial, solve

Watch = Callable[[str, int, int, int, float, float], None]


def trials(
    cells: Sequence[str], task: str, lengths: Sequence[int], seeds: Sequence[int], learning: Learning, watch: Watch
) -> Iterator[Trial]:
    """Run `solve` for every length, cell and seed, in this order.

    Args:
        cells: names of cells.
        task: a name in TASKS.
        lengths: how long sequences are.
        seeds: of weights and sequences.
        learning: how to learn.
        watch: is told after every update: cell, length, seed, and what `solve` tells.
    """
    for length in lengths:
        for cell in cells:
            for seed in seeds:
                yield solve(cell, task, length, seed, learning, partial(watch, cell, length, seed))


def summary(found: Sequence[Trial]) -> list[dict[str, Any]]:
    """A row for each cell and length, in the order in which they came.

    Returns:
        Rows of cell, length, parameters, seeds, solved (share of seeds), steps (median over those that solved it, None
        where none did), loss and right (medians over all seeds) and seconds (of all seeds together).
    """
    groups: dict[tuple[str, int], list[Trial]] = {}
    for trial in found:
        groups.setdefault((trial.cell, trial.length), []).append(trial)
    return [_row(group) for group in groups.values()]


def _row(group: Sequence[Trial]) -> dict[str, Any]:
    solved = [trial.steps for trial in group if trial.solved]
    return {
        "cell": group[0].cell,
        "length": group[0].length,
        "parameters": group[0].parameters,
        "seeds": len(group),
        "solved": len(solved) / len(group),
        "steps": median(solved) if solved else None,
        "loss": median(trial.loss for trial in group),
        "right": median(trial.right for trial in group),
        "seconds": sum(trial.seconds for trial in group),
    }
