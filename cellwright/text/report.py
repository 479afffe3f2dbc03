"""What a training shows: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

WIDTH = 50  # characters of a sample, however long its words are


class Report:
    """Prints the course of a training.

    Args:
        console: where to.
        epochs: how many there will be; 0 where that is not known.
        batches: how many each has.
        silent: show nothing (the other processes of several do not).
    """

    def __init__(self, console: Console, epochs: int, batches: int, silent: bool = False) -> None:
        self.console, self.epochs, self.batches = console, epochs, batches
        self.silent = silent
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def __enter__(self) -> Report:
        if self.console.is_terminal and not self.silent:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.task = self.bar.add_task("epoch", total=self.batches)
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def step(self, epoch: int, batch: int) -> None:
        """Move the bar."""
        self.move(batch, f"epoch {epoch}{_of(self.epochs)}")

    def move(self, done: int, words: str) -> None:
        """Move the bar, with words beside it."""
        if self.bar:
            self.bar.update(self.task, completed=done, description=words)

    def epoch(self, measured: Mapping[str, Any]) -> None:
        """Print a line for an epoch."""
        self.say(epoch_line(measured, self.epochs))

    def saved(self, epoch: int, batch: int, nats: float) -> None:
        """Where no bar shows it, say how far a long epoch has come."""
        if batch and not self.bar and not self.silent:
            place = f"epoch {epoch:>3}{_of(self.epochs)}  batch {batch:,}/{self.batches:,}"
            self.say(f"{place}  train perplexity {math.exp(min(nats / batch, 700.0)):.3f}  saved")

    def say(self, line: str) -> None:
        """Print a line as it is."""
        if not self.silent:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def epoch_line(measured: Mapping[str, Any], epochs: int) -> str:
    """The measurements of an epoch on one line."""
    parts = [f"epoch {measured['epoch']:>3}{_of(epochs)}", f"train perplexity {measured['train_perplexity']:.3f}"]
    if measured["val_perplexity"] is not None:
        parts.append(
            f"validation {measured['val_perplexity']:.3f} = {measured['val_bits_per_character']:.3f} bits/char"
        )
    parts.append(f"gradient {measured['gradient_norm']:.2f}")
    parts.append(f"{measured['tokens_per_second']:,.0f} tokens/s")
    if measured.get("sample"):
        parts.append(repr(measured["sample"][:WIDTH]))
    return "  ".join(parts)


def _of(epochs: int) -> str:
    return f"/{epochs}" if epochs else ""
