"""inspect, export and serve."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Optional

import typer

from cellwright import __version__
from cellwright.cli.flags import (
    CellFlag,
    JsonFlag,
    OutFlag,
    console_of,
    print_json,
)
from cellwright.ship import FORMATS, export_run
from cellwright.ship.serve import serve as serve_runs
from cellwright.ship.serve_limits import Limits
from cellwright.text.inspect import as_json as summary_of
from cellwright.text.inspect import inspect as look_inside
from cellwright.text.job import note_to
from cellwright.text.run import Run, free_name


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
    console = console_of(as_json)
    found = look_inside(Run(run), text, out or free_name("inside", run.name), cell, note_to(console))
    if as_json:
        print_json(summary_of(found))
        return
    for line in (*found.tracked, *found.behaviours, *(f"{n}: {flow}" for n, flow in found.flows.items())):
        note_to(console)(str(line))
    note_to(console)(f"pictures and what they mean: {found.path / 'index.html'}")


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
        print_json(exported.to_dict())
    else:
        print(exported)


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
