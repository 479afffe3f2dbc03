"""The same training for several cells: a directory of runs, a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from cellwright.cells import LIBRARY, cell_label, find_cell
from cellwright.errors import DivergedError, SettingError
from cellwright.figures import COLOURS, can_draw
from cellwright.kernels import choose
from cellwright.text.config import Settings
from cellwright.text.corpus import load_corpus
from cellwright.text.curves import draw_comparison, draw_ranking
from cellwright.text.files import write_json
from cellwright.text.job import Job, note_to
from cellwright.text.launch import start_job
from cellwright.text.model import LanguageModel, count_parameters
from cellwright.text.run import Run, refuse_existing
from cellwright.text.sources import find_sources
from cellwright.text.world import World

ALL = "all"


def compare(
    cells: Sequence[str], settings: Settings, path: Path, world: World, console: Console, parameters: int = 0
) -> list[dict[str, Any]]:
    """Train every cell alike, each into a run of its own under `path`.

    Args:
        cells: names of cells, at least one, each once; "all" for the library's.
        settings: all settings but the cell.
        path: a new directory; comparison.json, comparison.png and ranking.png go there too.
        world: where to compute.
        console: where the course is shown.
        parameters: not more in any model, and as near as its hidden size allows; 0: the hidden size of the settings.

    Returns:
        For each cell the measurements of its best epoch, with `cell`, `hidden_size`, `parameters` and `reason`
        (why the training ended); after Ctrl-C only those that were begun.
    """
    cells = each_once(cells)
    for cell in cells:  # all can be trained, before the first is
        choose(find_cell(cell)(1, 1), settings.model.backend)
    chosen = [settings.replace(cell=cell) for cell in cells]
    if parameters:
        note = note_to(console)
        found = world.first(lambda: tuple(source.name for source in find_sources(settings.data.text, note)))
        size = len(load_corpus(settings.replace(text=found).data).vocabulary)
        chosen = [fit(one.replace(text=found), size, parameters) for one in chosen]
    world.first(lambda: refuse_existing(path))
    rows: list[dict[str, Any]] = []
    for one in chosen:
        label = cell_label(one.model.cell)
        job = start_job(one, partial(_place, path / label), world, console)
        job.introduce()
        rows.append(_train(job, label))
        world.first(partial(_write, path, rows, job.corpus.names))
        if rows[-1]["reason"] == "stopped":
            break
    return rows


def each_once(cells: Sequence[str]) -> list[str]:
    """The named cells, with all of the library's for "all".

    Raises:
        SettingError: none, or one twice.
    """
    cells = list(LIBRARY) if list(cells) == [ALL] else list(cells)
    labels = [cell_label(cell) for cell in cells]
    if len(set(labels)) < len(labels) or not cells:
        raise SettingError(
            "compare takes each cell once", ", ".join(cells) or "none", "cellwright compare rnn gru lstm"
        )
    return cells


def fit(settings: Settings, vocabulary_size: int, parameters: int) -> Settings:
    """The settings with the largest hidden size whose model has at most so many parameters.

    Raises:
        SettingError: not even one unit does.
    """
    low, high = 0, 1  # units that fit, and that do not
    while _count(settings, high, vocabulary_size) <= parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        fits = _count(settings, middle, vocabulary_size) <= parameters
        low, high = (middle, high) if fits else (low, middle)
    if not low:
        raise SettingError(
            f"a model of {cell_label(settings.model.cell)} with one unit has "
            f"{_count(settings, 1, vocabulary_size):,} parameters",
            f"parameters={parameters}",
            "write a larger --parameters, or a smaller --embedding-size",
        )
    return _sized(settings, low)


def _sized(settings: Settings, units: int) -> Settings:
    return settings.replace(hidden_size=units, **({"embedding_size": units} if settings.model.tied else {}))


def _count(settings: Settings, units: int, vocabulary_size: int) -> int:
    with torch.device("meta"):  # shapes only
        return count_parameters(LanguageModel(_sized(settings, units).model, vocabulary_size))


def _train(job: Job, label: str) -> dict[str, Any]:
    """The row of a cell; one that diverges has no more than its best epoch until then."""
    model = {"cell": label, "hidden_size": job.settings.model.hidden_size, "parameters": count_parameters(job.model)}
    try:
        outcome = job.train()
    except DivergedError as error:
        job.report.say(f"{label}: {error}")
        measured = job.run.read_metrics()
        best = min(measured, key=lambda line: line["val_perplexity"] or line["train_perplexity"], default={})
        return {**model, "reason": "diverged", **best}
    return {**model, "reason": outcome.reason, **(outcome.best or {})}


def _place(path: Path, settings: Settings) -> Path:
    return path


def _write(path: Path, rows: list[dict[str, Any]], texts: tuple[str, ...]) -> None:
    write_json(path / "comparison.json", rows)
    measured = {row["cell"]: Run(path / row["cell"]).read_metrics() for row in rows}
    measured = {cell: metrics for cell, metrics in measured.items() if metrics}
    if not can_draw() or not measured:
        return
    names = ", ".join(Path(name).name for name in texts)
    if len(measured) <= len(COLOURS):  # more curves are not told apart
        draw_comparison(path / "comparison.png", measured, f"{', '.join(measured)} on {names}")
    ranked = [row for row in rows if row.get("val_bits_per_character") is not None]
    if ranked:
        draw_ranking(path / "ranking.png", ranked, f"{len(ranked)} cells on {names}")
