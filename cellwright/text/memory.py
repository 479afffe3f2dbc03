"""What `compare --task` does: several cells on a memory task, in a directory with a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cellwright.cells import cell_label, find_cell
from cellwright.errors import SettingError
from cellwright.figures import can_draw
from cellwright.kernels import choose
from cellwright.probe import Learning, Trial, find_task, summary, trials
from cellwright.text.compare import each_once
from cellwright.text.curves import draw_trials
from cellwright.text.files import cannot_write, write_json
from cellwright.text.report import Report
from cellwright.text.run import refuse_existing

SHARED = ("hidden_size", "batch_size", "learning_rate", "clip", "backend", "seed")  # settings that tasks have too
LENGTHS = (50, 100, 200)


def compare_on_task(
    cells: Sequence[str],
    task: str,
    lengths: Sequence[int],
    seeds: Sequence[int],
    learning: Learning,
    path: Path,
    console: Console,
) -> list[dict[str, Any]]:
    """Train every cell on a memory task, at every length and from every seed.

    Args:
        cells: names of cells, at least one, each once; "all" for the library's.
        task: a name in TASKS.
        lengths: how long sequences are, at least one.
        seeds: of weights and sequences, at least one.
        learning: how to learn.
        path: a new directory; trials.json, comparison.json and comparison.png go there.
        console: where the course is shown.

    Returns:
        Rows as `summary` gives them, one for each cell and length.
    """
    cells, what = each_once(cells), find_task(task)
    if min(lengths) < what.shortest:
        raise SettingError(
            f"lengths of the task {task} are at least {what.shortest}", str(min(lengths)), "write --lengths with more"
        )
    for cell in cells:  # all can be trained, before the first is
        choose(find_cell(cell)(what.inputs, 1), learning.backend)
    refuse_existing(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    found: list[Trial] = []
    with Report(console, 0, learning.steps) as report:
        report.say(f"task: {task}; {what.source}")
        report.say(f"up to {learning.steps:,} updates of {learning.batch_size} sequences; {learning.hidden_size} units")

        def watch(cell: str, length: int, seed: int, step: int, loss: float, right: float) -> None:
            report.move(step, f"{cell_label(cell)}, length {length}, seed {seed}: loss {loss:.4f}")

        for trial in trials(cells, task, lengths, seeds, learning, watch):
            found.append(trial)
            report.say(_line(trial))
            write_json(path / "trials.json", [trial.to_dict() for trial in found])
            if trial.seed == seeds[-1]:
                _write(path, task, summary(found))
    return summary(found)


def from_flags(given: Mapping[str, Any], preset: str | None, updates: int | None, forget_bias: str | None) -> Learning:
    """How to learn, from the flags of the command.

    Raises:
        SettingError: a flag is one of trainings on texts only.
    """
    odd = [f"--{name.replace('_', '-')}" for name in given if name not in SHARED]
    odd += ["--preset"] if preset is not None else []
    if odd:
        shared = ", ".join(f"--{name.replace('_', '-')}" for name in SHARED)
        raise SettingError(f"of the settings, --task takes {shared}", ", ".join(odd), "leave them out")
    chosen = {name: value for name, value in given.items() if name != "seed"}
    if updates is not None:
        chosen["steps"] = updates
    if forget_bias is not None:
        chosen["forget_bias"] = _bias(forget_bias)
    return Learning(**chosen)


def _bias(words: str) -> float | str | None:
    try:
        return None if words == "none" else float(words)
    except ValueError:
        return words  # chrono, or what Learning refuses


def numbers(words: str | None) -> tuple[int, ...]:
    """Lengths as they are written after --lengths: 50,100,200.

    >>> numbers("50,100"), numbers(None)
    ((50, 100), (50, 100, 200))

    Raises:
        SettingError: they are no whole numbers above 0, or one is there twice.
    """
    if words is None:
        return LENGTHS
    pieces = [piece for piece in words.split(",") if piece]
    found = tuple(int(piece) for piece in pieces if piece.isdecimal() and int(piece) > 0)
    if not found or len(found) < len(pieces) or len(set(found)) < len(found):
        raise SettingError("lengths are whole numbers above 0, each once", repr(words), "write --lengths 50 100 200")
    return found


def _line(trial: Trial) -> str:
    ends = {"solved": f"solved after {trial.steps:,} updates", "steps": "not solved", "diverged": "diverged"}
    measured = f"loss {trial.loss:.5f}  right {trial.right:.1%}  {trial.seconds:.0f} s"
    return f"{trial.cell}, length {trial.length}, seed {trial.seed}: {ends[trial.end]}  {measured}"


def _write(path: Path, task: str, rows: list[dict[str, Any]]) -> None:
    write_json(path / "comparison.json", rows)
    if can_draw():
        baselines = {row["length"]: find_task(task).baseline(row["length"]) for row in rows}
        draw_trials(path / "comparison.png", rows, baselines, f"the task {task}, seeds of each: {rows[0]['seeds']}")
