"""The same training for several cells: a directory of runs, a table and a picture."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from cellwright.cells import cell_label, find_cell
from cellwright.errors import SettingError
from cellwright.kernels import choose
from cellwright.text.config import Settings
from cellwright.text.curves import can_draw, draw_comparison
from cellwright.text.files import write_json
from cellwright.text.launch import start_job
from cellwright.text.model import count_parameters
from cellwright.text.run import Run, refuse_existing
from cellwright.text.world import World


def compare(cells: list[str], settings: Settings, path: Path, world: World, console: Console) -> list[dict[str, Any]]:
    """Train every cell alike, each into a run of its own under `path`.

    Args:
        cells: names of cells, at least one, each once.
        settings: all settings but the cell.
        path: a new directory; comparison.json and comparison.png go there too.
        world: where to compute.
        console: where the course is shown.

    Returns:
        For each cell the measurements of its best epoch, with `cell`, `parameters` and `reason` (why the
        training ended); after Ctrl-C only those that were begun.
    """
    labels = [cell_label(cell) for cell in cells]
    if len(set(labels)) < len(labels) or not cells:
        raise SettingError(
            "compare takes each cell once", ", ".join(cells) or "none", "cellwright compare rnn gru lstm"
        )
    for cell in cells:  # all can be trained, before the first is
        choose(find_cell(cell)(1, 1), settings.model.backend)
    world.first(lambda: refuse_existing(path))
    rows: list[dict[str, Any]] = []
    for cell, label in zip(cells, labels, strict=True):
        job = start_job(settings.replace(cell=cell), partial(_place, path / label), world, console)
        job.introduce()
        outcome = job.train()
        measured = {"cell": label, "parameters": count_parameters(job.model), "reason": outcome.reason}
        rows.append({**measured, **(outcome.best or {})})
        world.first(partial(_write, path, rows, job.corpus.names))
        if outcome.reason == "stopped":
            break
    return rows


def _place(path: Path, settings: Settings) -> Path:
    return path


def _write(path: Path, rows: list[dict[str, Any]], texts: tuple[str, ...]) -> None:
    write_json(path / "comparison.json", rows)
    measured = {row["cell"]: Run(path / row["cell"]).read_metrics() for row in rows}
    if can_draw() and all(measured.values()):
        names = ", ".join(Path(name).name for name in texts)
        draw_comparison(path / "comparison.png", measured, f"{', '.join(measured)} on {names}")
