"""Flags that several commands have, and how all of them print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console

from cellwright.cells import LIBRARY
from cellwright.text.config import preset_names

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
SeedFlag = Annotated[int, typer.Option("--seed", help="Seed of the picks.", min=0, max=2**63 - 1)]


def console_of(as_json: bool) -> Console:
    """Where the course of a command is shown: beside a result in JSON, on standard error."""
    return Console(stderr=as_json, emoji=False)


def print_json(value: Any) -> None:
    """A result for other programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
