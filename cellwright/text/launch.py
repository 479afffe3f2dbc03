"""Getting a training ready: a new one from settings, or a stopped one from its directory."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from cellwright.cells import find_cell
from cellwright.errors import CellError, CellwrightError, MissingPackageError, RunError, TextError
from cellwright.text.checkpoint import load_checkpoint
from cellwright.text.config import Settings, TrainingSettings
from cellwright.text.corpus import Corpus, load_corpus
from cellwright.text.job import Job, make_batches, note_to
from cellwright.text.model import LanguageModel
from cellwright.text.resume import part
from cellwright.text.run import Run, check_model, create_run, write_config
from cellwright.text.sources import find_sources
from cellwright.text.world import World

EVENTS = "tensorboard"
FEW = 100  # tokens: less is no text


def start_job(
    settings: Settings,
    choose_path: Callable[[Settings], Path],
    world: World,
    console: Console,
    tensorboard: bool = False,
) -> Job:
    """Read the text, make the run directory, and get everything ready to train.

    Args:
        settings: all settings.
        choose_path: where the run goes, given the settings with the texts that were really found.
        world: the processes that share the work.
        console: where the course is shown.
        tensorboard: whether to write event files for TensorBoard into the run.

    Raises:
        CellwrightError: anything a user can get wrong; no directory is left behind.
    """
    world.check_batch(settings.training.batch_size)
    find_cell(settings.model.cell)
    writer = _event_writer() if tensorboard else None
    note = note_to(console)
    found = world.first(lambda: tuple(source.name for source in find_sources(settings.data.text, note)))
    settings = settings.replace(text=found)
    corpus = load_corpus(settings.data)
    refuse_small_text(settings, corpus)
    rehearse(settings, len(corpus.vocabulary))
    path = world.first(lambda: choose_path(settings))
    run = world.first(lambda: create_run(path, settings, corpus))
    return Job(run, settings, corpus, world, console, writer(str(path / EVENTS)) if writer and world.writes else None)


def resume_job(
    run: Run,
    world: World,
    console: Console,
    cell: str | None = None,
    epochs: int = 0,
    tensorboard: bool = False,
) -> Job:
    """Get a stopped training ready to go on.

    Args:
        run: its directory.
        world: the processes that share the work, as many as before or not.
        console: where the course is shown.
        cell: the cell's file, where it is in a file.
        epochs: another number of epochs to train to, which the run remembers; 0 keeps its own.
        tensorboard: whether to write event files.

    Raises:
        RunError: the directory is damaged, or its text has changed.
    """
    writer = _event_writer() if tensorboard else None
    settings = run.settings().replace(**run.trusted(cell), **({"epochs": epochs} if epochs else {}))
    if epochs and settings.training.seconds:
        raise RunError(
            "a training by seconds does not count epochs", f"--epochs for {run.path}", "leave it out, or train anew"
        )
    world.check_batch(settings.training.batch_size)
    corpus = load_corpus(settings.data, vocabulary=run.vocabulary())
    if corpus.sha256 != run.config().get("sha256"):
        raise RunError(
            "a training goes on with the very text it began with",
            f"another content of {', '.join(corpus.names)} than {run.path} began with",
            "restore the text, or train anew with another --out",
        )
    if run.last.is_file():  # before memory is taken for sizes that may be forged
        tensors, values = load_checkpoint(run.last, "training")
        refuse_finished(run, values, settings.training)
        check_model(run.last, part(tensors, "model"), settings, len(corpus.vocabulary))
    events = writer(str(run.path / EVENTS)) if writer and world.writes else None
    job = Job(run, settings, corpus, world, console, events)
    job.resume()
    if epochs:
        world.first(lambda: write_config(run.path, settings, corpus))
        if settings.training.schedule != "constant":
            job.report.say(f"the {settings.training.schedule} learning rate is laid over {epochs} epochs now")
    return job


def refuse_finished(run: Run, values: Mapping[str, Any], training: TrainingSettings) -> None:
    """Refuse to go on where nothing is left to do.

    Raises:
        RunError: naming the flag that asks for more.
    """
    done, epochs, spent = values.get("epoch"), training.epochs, values.get("total_seconds")
    if training.seconds:
        if isinstance(spent, float) and spent >= training.seconds:
            raise RunError(
                "a training goes on where seconds are left",
                f"all {training.seconds:g} over in {run.path}",
                "train anew with more --seconds",
            )
    elif isinstance(done, int) and done >= epochs:
        raise RunError(
            "a training goes on where epochs are left",
            f"{done} epochs done of {epochs} in {run.path}",
            f"write --epochs {done + 1} or more",
        )


def rehearse(settings: Settings, vocabulary_size: int) -> None:
    """Run a model once, forward and backward, before anything is written.

    Raises:
        CellError: the cell fails, or has a weight that its equations do not use.
    """
    tokens = torch.zeros(2, 1, dtype=torch.long)  # (T, B)
    with torch.random.fork_rng():
        try:
            model = LanguageModel(settings.model, vocabulary_size)
            torch.autograd.backward(model(tokens)[0].sum())
        except (CellwrightError, MemoryError):
            raise
        except Exception as error:
            raise CellError(
                "a cell is built from (input_size, hidden_size), and its step runs on x (B, I) and states (B, H)",
                f"{type(error).__name__} from {settings.model.cell}: {' '.join(str(error).split())}",
                "try the cell alone: cell(torch.zeros(1, I), *cell.initial_state(1))",
            ) from error
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    if unused:
        raise CellError(
            "every weight of a cell takes part in its equations", f"{', '.join(unused)} unused", "remove it, or use it"
        )


def refuse_small_text(settings: Settings, corpus: Corpus) -> None:
    """Refuse a text of which a part is too short: to train on, or to measure on."""
    total = len(corpus.train) + len(corpus.validation)
    if settings.data.cleaning == "letters" and total < FEW and len(set(corpus.train.tolist())) < 2:
        raise TextError(
            "the cleaning 'letters' keeps the letters a to z and single blanks",
            "a text of which that leaves nothing",
            "write --cleaning none, or name another text",
        )
    make_batches(settings, corpus)
    if settings.data.validation and len(corpus.validation) < 2:
        raise TextError(
            "the held-out part of a text has at least 2 tokens",
            f"{len(corpus.validation)} of {total:,}",
            "write a larger --validation, or 0 for none",
        )


def _event_writer() -> Any:
    try:
        return importlib.import_module("torch.utils.tensorboard").SummaryWriter
    except ImportError as error:
        raise MissingPackageError(
            "--tensorboard needs the package tensorboard",
            "a Python without it",
            'pip install "cellwright[tensorboard]"',
        ) from error
