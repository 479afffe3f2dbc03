"""The command cellwright: parses, calls, prints; nothing else."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, NoReturn

import torch
import typer

from cellwright import __version__
from cellwright.cli.comparing import Lengths, compare
from cellwright.cli.shipping import export, inspect, serve
from cellwright.cli.training import evaluate, sample, train
from cellwright.errors import CellwrightError
from cellwright.text.flags import with_settings

app = typer.Typer(
    name="cellwright",
    help="Train recurrent networks on text, write with them, compare them, look inside, export and serve.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
app.command("compare", cls=Lengths)(with_settings(compare, leave_out=("cell",)))
app.command("inspect")(inspect)
app.command("export")(export)
app.command("serve")(serve)


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
