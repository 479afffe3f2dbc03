"""The command cellwright: parses, calls, prints; nothing else."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional

import torch
import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperCommand

from cellwright import __version__
from cellwright.cells import LIBRARY, cell_label
from cellwright.errors import CellwrightError, SettingError
from cellwright.probe import TASKS, Learning
from cellwright.ship import FORMATS, export_run
from cellwright.ship.serve import serve as serve_runs
from cellwright.ship.serve_limits import Limits
from cellwright.text.assess import assess
from cellwright.text.compare import compare as compare_cells
from cellwright.text.config import Settings, load_preset, preset_names
from cellwright.text.flags import changes, join_numbers, with_settings
from cellwright.text.inspect import as_json as summary_of
from cellwright.text.inspect import inspect as look_inside
from cellwright.text.job import Job, Outcome, note_to
from cellwright.text.launch import resume_job, start_job
from cellwright.text.memory import compare_on_task, from_flags, numbers
from cellwright.text.run import Run, free_name, refuse_existing
from cellwright.text.sample import Picker
from cellwright.text.world import join_world
from cellwright.text.write import write

app = typer.Typer(
    name="cellwright",
    help="Train recurrent networks on text, write with them, measure and compare them.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

CELLS = f"One of {', '.join(LIBRARY)}, or path/to/file.py:Class."
OutFlag = Annotated[
    Optional[Path], typer.Option("--out", help="The new directory for the results.", show_default="runs/NAME")
]
PresetFlag = Annotated[
    Optional[str],
    typer.Option("--preset", help=f"One of {', '.join(preset_names())}, or a .toml file.", show_default="default"),
]
DeviceFlag = Annotated[str, typer.Option("--device", help="auto takes a GPU where there is one; or cpu, cuda.")]
CellFlag = Annotated[Optional[str], typer.Option("--cell", help="The cell's file, where the run was trained with one.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and the course to standard error.")]
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
SeedFlag = Annotated[int, typer.Option("--seed", help="Seed of the picks.", min=0, max=2**63 - 1)]


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
    console, world, given = _console(as_json), join_world(device), changes(settings)
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
        _print_json({"run": str(outcome.run.path), "reason": outcome.reason, "best": outcome.best})
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
        _print_json({"prefix": first, "text": rest})
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
    console = _console(as_json)
    result = assess(Run(run), text, join_world(device).device, cell, note_to(console))
    if as_json:
        _print_json(result)
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
    console, given = _console(as_json), changes(settings)
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
        _print_json({"directory": str(path), "cells": rows})
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


def serve(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of trained runs.")],
    host: Annotated[str, typer.Option("--host", help="The address to listen on; usually this machine alone.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", help="The port; 0 takes a free one.", min=0, max=65535)] = 8000,
    sessions: Annotated[
        int, typer.Option("--sessions", help="Requests at work at once.", min=1, max=4096)
    ] = Limits.sessions,
    rate: Annotated[float, typer.Option("--rate", help="Requests a second and client.", min=0.01)] = Limits.rate,
    seconds: Annotated[float, typer.Option("--seconds", help="Time of one request.", min=0.01)] = Limits.seconds,
    threads: Annotated[
        int, typer.Option("--threads", help="Threads of one step; more than 1 for large models.", min=1, max=1024)
    ] = 1,
    proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A proxy on this machine says who a client is (X-Forwarded-For).")
    ] = False,
    cell: Annotated[
        Optional[list[str]], typer.Option("--cell", help="A cell's file, where a run was trained with one.")
    ] = None,
) -> None:
    """Serve runs: a page on which they write, and an HTTP API, described in /openapi.json."""
    burst = max(Limits.burst, int(4 * rate))
    limits = Limits(sessions=sessions, rate=rate, burst=burst, seconds=seconds)
    note = partial(print, flush=True)
    serve_runs(runs, host, port, limits, cell or (), threads, proxy, __version__, note)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a trained run.")],
    output: Annotated[
        Optional[Path], typer.Option("--output", help="The file to write.", show_default="model.FORMAT in the run")
    ] = None,
    format: Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")] = "onnx",
    cell: CellFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the model of a run to a file for other programs, checked against the model first."""
    exported = export_run(Run(run), output, format, cell)
    if as_json:
        _print_json(exported.to_dict())
    else:
        print(exported)


def inspect(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a trained run.")],
    text: Annotated[
        Optional[str], typer.Argument(help="The text to look at it on.", show_default="what the run held out")
    ] = None,
    out: OutFlag = None,
    cell: CellFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Look inside a run: gates over a text, gradients through time, a page that explains them."""
    console = _console(as_json)
    found = look_inside(Run(run), text, out or free_name("inside", run.name), cell, note_to(console))
    if as_json:
        _print_json(summary_of(found))
        return
    for line in (*found.tracked, *found.behaviours, *(f"{n}: {flow}" for n, flow in found.flows.items())):
        note_to(console)(str(line))
    note_to(console)(f"pictures and what they mean: {found.path / 'index.html'}")


def _console(as_json: bool) -> Console:
    return Console(stderr=as_json, emoji=False)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"cellwright {__version__}, torch {torch.__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the versions.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


app.command("train")(with_settings(train, leave_out=("text",)))
app.command("sample")(sample)
app.command("eval")(evaluate)
app.command("serve")(serve)
app.command("inspect")(inspect)
app.command("export")(export)


class _Lengths(TyperCommand):
    """A command whose --lengths takes all numbers that come after it, not only the first."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, join_numbers(args, "--lengths"))


app.command("compare", cls=_Lengths)(with_settings(compare, leave_out=("cell",)))


def _refuse(message: str) -> NoReturn:
    print(f"cellwright: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command; an error of the user's is one line, and exit status 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without some character shows a stand-in
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        status = typer.main.get_command(app).main(
            args=arguments or ["--help"], prog_name="cellwright", standalone_mode=False
        )
    except CellwrightError as error:
        _refuse(str(error))
    except typer.TyperException as error:
        _refuse(f"{error.format_message()} See --help.")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        words = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
        _refuse(str(CellwrightError("files are where they are said to be, and may be used", words, "check the path")))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        what = CellwrightError(
            "a training fits into memory", str(error), "write a smaller --hidden-size or --batch-size"
        )
        _refuse(str(what))
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    _leave(status if isinstance(status, int) else 0)


def _leave(status: int) -> NoReturn:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Of several processes one now and then aborts in PyTorch's own threads while it is taken down, when all
        # is written and said, and torchrun would report a failure: nothing is left to take down with care.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
