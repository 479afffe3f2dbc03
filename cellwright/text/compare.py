"""The same training for several cells: a directory of runs, a table and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from cellwright.cells import find_cell
from cellwright.errors import SettingError
from cellwright.text.config import Settings
from cellwright.text.curves import can_draw, draw_comparison
from cellwright.text.files import write_json
from cellwright.text.job import start_job
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
    if len(set(cells)) < len(cells) or not cells:
        raise SettingError(
            "compare takes each cell once", ", ".join(cells) or "none", "cellwright compare rnn gru lstm"
        )
    for cell in cells:
        find_cell(cell)
    refuse_existing(path)
    rows: list[dict[str, Any]] = []
    for cell in cells:
        place = path / Path(cell.replace(":", "-")).stem
        job = start_job(settings.replace(cell=cell), lambda _, place=place: place, world, console)  # type: ignore[misc]
        job.introduce()
        outcome = job.train()
        parameters = sum(parameter.numel() for parameter in job.model.parameters())
        rows.append({"cell": cell, "parameters": parameters, "reason": outcome.reason, **(outcome.best or {})})
        if outcome.reason == "stopped":
            break
    write_json(path / "comparison.json", rows)
    finished = {row["cell"]: Run(path / Path(row["cell"].replace(":", "-")).stem).read_metrics() for row in rows}
    if can_draw() and all(finished.values()):
        draw_comparison(path / "comparison.png", finished, f"{', '.join(finished)} on {', '.join(settings.data.text)}")
    return rows
