"""Small trainings for tests."""

import io
import json
import subprocess
import sys
from pathlib import Path

import torch
from rich.console import Console

from cellwright.text import load_preset, resume_job, start_job
from cellwright.text.run import Run
from cellwright.text.world import World

SMALL = {
    "text": ("python-docs",),
    "max_tokens": 4000,
    "hidden_size": 16,
    "embedding_size": 8,
    "batch_size": 4,
    "steps": 25,
    "epochs": 3,
}
ALONE = World(0, 1, torch.device("cpu"))


def quiet():
    return Console(file=io.StringIO(), width=200)


def small_settings(**changes):
    return load_preset("default").replace(**{**SMALL, **changes})


def small_job(path, **changes):
    """A job about to train a tiny model into `path`."""
    return start_job(small_settings(**changes), lambda _: path, ALONE, quiet())


def go_on(path, **options):
    """A job about to go on with the run in `path`."""
    return resume_job(Run(path), ALONE, quiet(), **options)


def command(*arguments, launcher=(), **options):
    """Run the command in a process of its own."""
    flags = [sys.executable, *launcher, "-m", "cellwright", *map(str, arguments)]
    return subprocess.run(flags, capture_output=True, text=True, timeout=250, check=False, **options)


def small_flags(**changes):
    """The flags of a tiny training."""
    values = {name: value for name, value in {**SMALL, **changes}.items() if name != "text"}
    return [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def metrics(path):
    return [json.loads(line) for line in (Path(path) / "metrics.jsonl").read_text().splitlines()]


def without_time(lines):
    """Measurements without those that differ from one time to the next."""
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")} for line in lines]
