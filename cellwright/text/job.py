"""The main job: a training that is watched, shown and saved, from settings to a trained run directory."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from cellwright.cells import cell_label
from cellwright.figures import HOW_TO_GET, can_draw
from cellwright.text.batches import Batches
from cellwright.text.checkpoint import save_checkpoint
from cellwright.text.config import Settings
from cellwright.text.corpus import Corpus
from cellwright.text.curves import draw_curves
from cellwright.text.evaluate import Score, evaluate
from cellwright.text.files import remove_leftovers
from cellwright.text.model import LanguageModel, count_parameters
from cellwright.text.report import Report
from cellwright.text.resume import restore
from cellwright.text.run import Run
from cellwright.text.sample import Picker, sample
from cellwright.text.train import Trainer
from cellwright.text.world import World

SAMPLE_LENGTH = 50
SECONDS_BETWEEN_PICTURES = 10.0


@dataclass(frozen=True)
class Outcome:
    """How a training ended: its run, why, and the measurements of its best epoch (none before the first)."""

    run: Run
    reason: str
    best: dict[str, Any] | None


class Job:
    """One training and everything around it: it observes the trainer, and shows and saves what happens.

    Args:
        run: where results go.
        settings: all settings.
        corpus: the text as ids.
        world: the processes that share the work.
        console: where the course is shown.
        events: a SummaryWriter of TensorBoard to tell the measurements too.
    """

    def __init__(
        self, run: Run, settings: Settings, corpus: Corpus, world: World, console: Console, events: Any = None
    ) -> None:
        self.run, self.settings, self.corpus, self.world, self.console = run, settings, corpus, world, console
        self.stop_signal = 0
        self.drawn = time.monotonic()
        torch.manual_seed(settings.training.seed)
        self.model = LanguageModel(settings.model, len(corpus.vocabulary)).to(world.device)
        self.batches = make_batches(settings, corpus)
        measure = self.measure if settings.data.validation else None
        self.trainer = Trainer(self.model, self.batches, settings.training, measure, world, self)
        epochs = 0 if settings.training.seconds else settings.training.epochs
        self.report = Report(console, epochs, len(self.batches), silent=not world.writes)
        self.events = events

    def measure(self, model: nn.Module) -> Score:
        """The score on the held-out text."""
        return evaluate(model, self.corpus.validation, self.corpus.vocabulary.characters(), self.world.device)

    def resume(self) -> None:
        """Take up the last checkpoint; a run that was stopped before its first starts from the beginning."""
        self.world.first(lambda: remove_leftovers(self.run.path))
        if self.run.last.is_file():
            restore(self.trainer, self.run.last)
        self.world.first(lambda: self.run.cut_metrics(self.trainer.progress.epoch))

    def train(self, stop_after: int = 0) -> Outcome:
        """Train to the end, or to a stop; SIGINT and SIGTERM end it after the current step, saved."""
        old = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with self.report:
                reason = self.trainer.train(stop_after)
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
            if self.events:
                self.events.close()
        self.draw()
        best = [line for line in self.run.read_metrics() if line.get("epoch") == self.trainer.progress.best_epoch]
        return Outcome(self.run, reason, best[0] if best else None)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.stop_signal:  # the second time, at once
            raise KeyboardInterrupt
        self.stop_signal = number

    def wants_to_stop(self) -> bool:
        """Whether a signal came."""
        return bool(self.stop_signal)

    def on_step(self, trainer: Trainer) -> None:
        """Move the progress bar."""
        self.report.step(trainer.progress.epoch + 1, trainer.progress.batch)

    def on_epoch(self, trainer: Trainer, measured: dict[str, Any], is_best: bool) -> None:
        """Write down, show and keep what an epoch gave."""
        self.world.first(lambda: self._keep(trainer.best_model, measured, is_best))

    def _keep(self, model: nn.Module, measured: dict[str, Any], is_best: bool) -> None:
        if is_best:
            save_checkpoint(self.run.weights, "model", model.state_dict(), {"epoch": measured["epoch"]})
        measured["sample"] = self.write_sample(model, seed=measured["epoch"])
        self.run.add_metrics(measured)
        if self.events:
            _add_events(self.events, measured)
        self.report.epoch(measured)
        # Ever more seldom: every picture leaves some memory taken in matplotlib's caches.
        pause = max(SECONDS_BETWEEN_PICTURES, self.trainer.progress.total_seconds / 20)
        if time.monotonic() - self.drawn > pause:
            self.draw()

    def draw(self) -> None:
        """Draw the curves so far, where matplotlib is."""
        measured = self.run.read_metrics()
        if can_draw() and measured and self.world.writes:
            draw_curves(self.run.curves, measured, describe(self.settings))
            self.drawn = time.monotonic()

    def on_save(self, trainer: Trainer, tensors: dict[str, Tensor]) -> None:
        """Save what going on needs."""
        values = asdict(trainer.progress)
        self.world.first(lambda: save_checkpoint(self.run.last, "training", tensors, values))
        self.report.saved(trainer.progress.epoch + 1, trainer.progress.batch, trainer.progress.nats)

    def write_sample(self, model: nn.Module, seed: int) -> str:
        """A few words that the model writes on from the beginning of the text."""
        vocabulary = self.corpus.vocabulary
        start = [int(i) for i in self.corpus.train[:10]]
        never = () if vocabulary.unknown is None else (vocabulary.unknown,)
        was_training = model.training
        picked = list(
            sample(model.eval(), start, SAMPLE_LENGTH, Picker(temperature=0.7, never=never), seed, self.world.device)
        )
        model.train(was_training)
        return vocabulary.decode(picked)

    def introduce(self) -> None:
        """Say what is going to be trained on what."""
        data, corpus = self.settings.data, self.corpus
        kinds = {"char": "characters", "byte": "bytes", "word": "words", "bpe": "BPE tokens"}[data.tokens]
        self.report.say(
            f"text: {', '.join(Path(name).name for name in corpus.names)}; {len(corpus.train):,} {kinds} to train on, "
            f"{len(corpus.validation):,} held out; vocabulary of {len(corpus.vocabulary)}"
        )
        self.report.say(f"model: {describe(self.settings)}; {count_parameters(self.model):,} parameters")
        first = next(self.model.recurrent.choices())
        together = f", {self.world.size} processes" if self.world.size > 1 else ""
        self.report.say(f"backend: {first.backend}; {first.reason}; on {self.world.device}{together}")
        if not can_draw():
            self.report.say(f"no picture of the curves without matplotlib: {HOW_TO_GET}")


def make_batches(settings: Settings, corpus: Corpus) -> Batches:
    """The batches of a training."""
    training = settings.training
    return Batches(corpus.train, training.batch_size, training.steps, training.batches, training.seed)


def describe(settings: Settings) -> str:
    """A model in a few words."""
    model = settings.model
    layers = "" if model.num_layers == 1 else f"{model.num_layers} x "
    return f"{layers}{model.hidden_size} units of {cell_label(model.cell)}"


def note_to(console: Console) -> Callable[[str], None]:
    """A function that prints a line as it is."""
    return lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)


def _add_events(events: Any, measured: dict[str, Any]) -> None:
    for name, value in measured.items():
        if isinstance(value, (int, float)) and name != "epoch":
            events.add_scalar(name, value, measured["epoch"])
