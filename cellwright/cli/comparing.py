"""compare: several cells, on a text or on a memory task."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperCommand

from cellwright.cells import cell_label
from cellwright.cli.flags import (
    CELLS,
    DeviceFlag,
    JsonFlag,
    OutFlag,
    PresetFlag,
    console_of,
    print_json,
)
from cellwright.errors import SettingError
from cellwright.probe import TASKS, Learning
from cellwright.text.compare import compare as compare_cells
from cellwright.text.config import load_preset
from cellwright.text.flags import changes, join_numbers
from cellwright.text.job import note_to
from cellwright.text.memory import compare_on_task, from_flags, numbers
from cellwright.text.run import free_name
from cellwright.text.world import join_world

TaskFlag = Annotated[
    Optional[str], typer.Option("--task", help=f"A memory task instead of a text: {', '.join(TASKS)}.")
]
LengthsFlag = Annotated[
    Optional[str],
    typer.Option("--lengths", help="Of the task, as 50 100 200 or 50,100,200.", show_default="50 100 200"),
]
SeedsFlag = Annotated[
    Optional[int], typer.Option("--seeds", help="Trainings from so many seeds on the task.", min=1, show_default="3")
]
UpdatesFlag = Annotated[
    Optional[int],
    typer.Option("--updates", help="Give the task up after so many.", min=1, show_default=f"{Learning.steps}"),
]
ForgetFlag = Annotated[
    Optional[str],
    typer.Option(
        "--forget-bias",
        help="Biases of forget gates when a task begins: a number; chrono, by its length; none, as the cell has them.",
        show_default=f"{Learning.forget_bias}",
    ),
]


def compare(
    cells: Annotated[list[str], typer.Argument(help=f"all, or any: {CELLS}")],
    parameters: Annotated[
        int,
        typer.Option(
            "--parameters",
            help="As many in every model, by its hidden size; 0: --hidden-size.",
            min=0,
            show_default="0",
        ),
    ] = 0,
    task: TaskFlag = None,
    lengths: LengthsFlag = None,
    seeds: SeedsFlag = None,
    updates: UpdatesFlag = None,
    forget_bias: ForgetFlag = None,
    preset: PresetFlag = None,
    out: OutFlag = None,
    device: DeviceFlag = "auto",
    as_json: JsonFlag = False,
    **settings: Any,
) -> None:
    """Train several cells alike, on a text or on a memory task; a table and pictures tell them apart.

    Examples: cellwright compare rnn gru lstm; cellwright compare all --parameters 300000 --seconds 60;
    cellwright compare rnn gru lstm --task adding --lengths 50 100 200.
    """
    console, given = console_of(as_json), changes(settings)
    if task is not None:
        _refuse_text_flags(device, parameters)
        first = given.get("seed", 0)
        learning = from_flags(given, preset, updates, forget_bias)
        path = out or free_name(f"compare-{task}", _names(cells))
        runs = range(first, first + (seeds or 3))
        rows = compare_on_task(cells, task, numbers(lengths), runs, learning, path, console)
        _print_comparison(rows, path, as_json, console, _trials(rows))
        return
    _refuse_task_flags({"lengths": lengths, "seeds": seeds, "updates": updates, "forget-bias": forget_bias})
    world = join_world(device)
    chosen = load_preset(preset or "default").replace(**given)
    path = world.first(lambda: out or free_name("compare", _names(cells)))
    rows = compare_cells(cells, chosen, path, world, console, parameters)
    world.leave()
    if not world.writes:
        return
    _print_comparison(rows, path, as_json, console, _comparison(rows))
    if any(row["reason"] == "stopped" for row in rows):
        note_to(console)(f"stopped: {rows[-1]['cell']} is unfinished, and cells after it have not begun")
        raise typer.Exit(130)


def _names(cells: list[str]) -> str:
    return "-".join(map(cell_label, cells))


def _refuse_task_flags(given: dict[str, Any]) -> None:
    flags = [f"--{name}" for name, value in given.items() if value is not None]
    if flags:
        raise SettingError(
            f"{', '.join(flags)} {'is' if len(flags) == 1 else 'are'} for memory tasks",
            "a comparison on texts",
            "add --task adding, say, or leave it out",
        )


def _refuse_text_flags(device: str, parameters: int) -> None:
    if device not in ("auto", "cpu") or parameters or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingError(
            "memory tasks run in one process on the CPU, at the same --hidden-size",
            f"--device {device}, --parameters {parameters}, {os.environ.get('WORLD_SIZE', '1')} process(es)",
            "leave out --device and --parameters, and torchrun",
        )


def _print_comparison(rows: list[dict[str, Any]], path: Path, as_json: bool, console: Console, table: Table) -> None:
    if as_json:
        print_json({"directory": str(path), "cells": rows})
    else:
        console.print(table)
        note_to(console)(f"pictures and results: {path}")


def _trials(rows: list[dict[str, Any]]) -> Table:
    titles = ("cell", "length", "weights", "solved", "updates", "loss", "right", "seconds")
    caption = "updates: median of those that solved it; loss, right: of the last 2000 sequences, median over seeds"
    table = Table(*titles, caption=caption)
    for row in rows:
        solved = f"{round(row['solved'] * row['seeds'])} of {row['seeds']}"
        updates = "-" if row["steps"] is None else f"{row['steps']:,.0f}"
        measured = (f"{row['loss']:.5f}", f"{row['right']:.1%}", f"{row['seconds']:.0f}")
        table.add_row(row["cell"], str(row["length"]), f"{row['parameters']:,}", solved, updates, *measured)
    return table


def _comparison(rows: list[dict[str, Any]]) -> Table:
    titles = ("cell", "weights", "train", "held out", "bits/char", "tokens/s", "seconds")
    table = Table(*titles, caption="train, held out: perplexity")
    for row in rows:
        columns = ("train_perplexity", "val_perplexity", "val_bits_per_character")
        figures = ["-" if row.get(name) is None else f"{row[name]:.3f}" for name in columns]
        speed = [f"{row.get('tokens_per_second', 0):,.0f}", f"{row.get('seconds', 0):.1f}"]
        table.add_row(row["cell"], f"{row['parameters']:,}", *figures, *speed)
    return table


class Lengths(TyperCommand):
    """A command whose --lengths takes all numbers that come after it, not only the first."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, join_numbers(args, "--lengths"))
