"""train, sample and eval."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.table import Table

from cellwright.cells import LIBRARY, cell_label
from cellwright.cli.flags import (
    CellFlag,
    DeviceFlag,
    JsonFlag,
    OutFlag,
    PresetFlag,
    SeedFlag,
    console_of,
    print_json,
)
from cellwright.errors import SettingError
from cellwright.text.assess import assess
from cellwright.text.config import Settings, load_preset
from cellwright.text.flags import changes
from cellwright.text.job import Job, Outcome, note_to
from cellwright.text.launch import resume_job, start_job
from cellwright.text.run import Run, free_name, refuse_existing
from cellwright.text.sample import Picker
from cellwright.text.world import join_world
from cellwright.text.write import write


def train(
    text: Annotated[
        Optional[list[str]],
        typer.Argument(
            help="Files of UTF-8 text, or time-machine, python-docs. Default: The Time Machine.", show_default=False
        ),
    ] = None,
    preset: PresetFlag = None,
    out: OutFlag = None,
    resume: Annotated[
        Optional[Path], typer.Option("--resume", help="Go on with this run; of the settings only --epochs may change.")
    ] = None,
    stop_after: Annotated[
        int,
        typer.Option(
            "--stop-after", help="Leave after this epoch, to resume another time.", min=0, show_default="never"
        ),
    ] = 0,
    device: DeviceFlag = "auto",
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write event files for TensorBoard too.")] = False,
    as_json: JsonFlag = False,
    **settings: Any,
) -> None:
    """Train a model that writes like a text.

    Examples: cellwright train; cellwright train book.txt --cell gru --hidden-size 512;
    cellwright train --preset d2l --cell rnn --hidden-size 512; cellwright train --resume runs/book-lstm.
    """
    console, world, given = console_of(as_json), join_world(device), changes(settings)
    if resume is not None:
        _refuse_changes(preset, text, out, given)
        job = resume_job(Run(resume), world, console, given.get("cell"), given.get("epochs", 0), tensorboard)
    else:
        chosen = load_preset(preset or "default").replace(**given, **({"text": tuple(text)} if text else {}))
        if out is not None:
            world.first(lambda: refuse_existing(out))
        job = start_job(chosen, lambda found: out or _free_name(found), world, console, tensorboard)
    job.introduce()
    outcome = job.train(stop_after)
    if world.writes:
        _print_outcome(job, outcome, as_json)
    world.leave()
    if job.stop_signal:
        raise typer.Exit(128 + job.stop_signal)


def _free_name(settings: Settings) -> Path:
    return free_name(settings.data.text[0], cell_label(settings.model.cell))


def _refuse_changes(preset: str | None, text: list[str] | None, out: Path | None, settings: dict[str, Any]) -> None:
    given = [f"--{name.replace('_', '-')}" for name in settings if name not in ("epochs", "cell")]
    given += [name for name, value in (("--preset", preset), ("TEXT", text), ("--out", out)) if value is not None]
    if given:
        raise SettingError(
            "a resumed training keeps the settings of its run, except --epochs",
            ", ".join(given),
            "leave them out, or train anew",
        )


def _print_outcome(job: Job, outcome: Outcome, as_json: bool) -> None:
    if as_json:
        print_json({"run": str(outcome.run.path), "reason": outcome.reason, "best": outcome.best})
    best, path, cell = outcome.best, shlex.quote(str(outcome.run.path)), job.settings.model.cell
    path += "" if cell in LIBRARY else f" --cell {shlex.quote(cell)}"
    if best and best["val_perplexity"] is not None:
        bits = f"{best['val_bits_per_character']:.3f} bits per character"
        job.report.say(f"best: validation perplexity {best['val_perplexity']:.3f}, {bits}, in epoch {best['epoch']}")
    elif best:
        job.report.say(f"best: training perplexity {best['train_perplexity']:.3f} in epoch {best['epoch']}")
    if outcome.reason == "stopped":
        job.report.say(f"stopped and saved; go on with: {_program()} train --resume {path}")
    else:
        job.report.say(f"let it write: {_program()} sample {path}")


def _program() -> str:
    """The command as it was called, for those whose shell does not find it by its bare name."""
    called = sys.argv[0]
    if called.endswith(os.path.join("cellwright", "__main__.py")):
        return "python -m cellwright"
    return "cellwright" if shutil.which("cellwright") or not called.endswith("cellwright") else shlex.quote(called)


def sample(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a trained run.")],
    prefix: Annotated[
        Optional[str], typer.Option("--prefix", help="What to write on from.", show_default="a blank")
    ] = None,
    length: Annotated[int, typer.Option("--length", help="Tokens to write.")] = 300,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always take the likeliest token.")] = False,
    temperature: Annotated[float, typer.Option("--temperature", help="Below 1 safer, above 1 bolder.")] = 0.8,
    top_k: Annotated[int, typer.Option("--top-k", help="Pick among the k likeliest only; 0: among all.")] = 0,
    top_p: Annotated[
        float, typer.Option("--top-p", help="Pick among the likeliest that together have this probability.")
    ] = 1.0,
    seed: SeedFlag = 0,
    device: DeviceFlag = "auto",
    cell: CellFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Write text on from a prefix, shown as it is written."""
    picker = Picker(greedy, temperature, top_k, top_p)
    written = write(Run(run), prefix, length, picker, seed, join_world(device).device, cell)
    if as_json:
        first, rest = next(written), "".join(written)
        print_json({"prefix": first, "text": rest})
        return
    for piece in written:
        print(piece, end="", flush=True)
    print()


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a trained run.")],
    text: Annotated[
        Optional[str], typer.Argument(help="The text to measure on.", show_default="what the run held out")
    ] = None,
    device: DeviceFlag = "auto",
    cell: CellFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure a run: perplexity and bits per character, beside n-gram models of the same training text."""
    console = console_of(as_json)
    result = assess(Run(run), text, join_world(device).device, cell, note_to(console))
    if as_json:
        print_json(result)
        return
    note_to(console)(f"{result['text']}: {result['tokens']:,} tokens, {result['unknown_share']:.2%} unknown")
    table = Table("model", "perplexity", "bits per character")
    for name, values in _assessed(result):
        table.add_row(name, f"{values['perplexity']:.3f}", f"{values['bits_per_character']:.3f}")
    console.print(table)


def _assessed(result: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    rows = [("this run", result["model"])]
    for one in result["baselines"]:
        rows.append((f"{one['order']}-gram, add 0.01", one["added"]))
        rows.append((f"{one['order']}-gram, Witten-Bell", one["witten_bell"]))
    return rows
