"""The training loop; it knows nothing of the cell inside the model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cellwright.errors import DivergedError
from cellwright.text.batches import Batches
from cellwright.text.config import TrainingSettings
from cellwright.text.evaluate import Score
from cellwright.text.model import detach
from cellwright.text.optimise import build_average, build_optimizer, set_learning_rate
from cellwright.text.world import World

SECONDS_BETWEEN_SAVES = 300.0


@dataclass
class Progress:
    """How far a training is: what a checkpoint holds beside tensors."""

    epoch: int = 0  # epochs finished
    batch: int = 0  # batches finished in the epoch after those
    best: float = math.inf  # lowest perplexity of an epoch so far
    best_epoch: int = 0
    nats: float = 0.0  # sums over the epoch that is under way:
    norms: float = 0.0
    seconds: float = 0.0
    total_seconds: float = 0.0  # of training steps, over all epochs


class Observer(Protocol):
    """Whoever watches a training: shows it, saves it, and may end it."""

    def on_step(self, trainer: Trainer) -> None:
        """After each step."""

    def on_epoch(self, trainer: Trainer, measured: dict[str, Any], is_best: bool) -> None:
        """After each epoch, with its measurements."""

    def on_save(self, trainer: Trainer, tensors: dict[str, Tensor]) -> None:
        """When what going on needs should be saved: these tensors and the trainer's progress."""

    def wants_to_stop(self) -> bool:
        """Whether to save and leave after this step."""


class Trainer:
    """Trains a model on batches, from wherever its progress stands.

    Args:
        model: called as model(tokens (T, B), state); returns scores (T, B, V) and the next state.
        batches: which batches make an epoch.
        settings: how to learn.
        measure: scores the held-out text, or None where nothing is held out.
        world: the processes that share the work.
        observer: who watches.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        settings: TrainingSettings,
        measure: Callable[[nn.Module], Score] | None,
        world: World,
        observer: Observer,
    ) -> None:
        self.model, self.batches, self.settings = model, batches, settings
        self.measure, self.world, self.observer = measure, world, observer
        self.network = world.wrap(model)
        self.optimizer = build_optimizer(model, settings)
        self.average = build_average(model, settings.average)
        self.progress = Progress()
        self.carried: Any = None  # this process's rows of the state
        self.saved = time.monotonic()

    @property
    def best_model(self) -> nn.Module:
        """The model to measure and keep: the averaged one where there is one."""
        return self.average.module if self.average else self.model

    def train(self, stop_after: int = 0) -> str:
        """Train until the last epoch, and say in one word why it ended.

        Args:
            stop_after: leave after this epoch, to go on another time; 0 goes to the end.

        Returns:
            "finished", "patience" (no better validation for so many epochs) or "stopped".

        Raises:
            DivergedError: a loss or gradient is not a finite number.
        """
        last = stop_after or math.inf
        while self.progress.epoch < last and not self.is_done() and not self.out_of_patience():
            self.model.train()
            for x, y in self.batches.epoch(self.progress.epoch, self.progress.batch):
                stop, save = self.step(self.world.mine(x), self.world.mine(y))
                self.observer.on_step(self)
                if stop or save:
                    self.save()
                if stop:
                    return "stopped"
                if self.out_of_time():
                    break
            self.finish_epoch()
            self.save()
        if self.is_done():
            return "finished"
        return "patience" if self.out_of_patience() else "stopped"

    def save(self) -> None:
        """Have the observer save what going on needs."""
        self.observer.on_save(self, self.tensors())
        self.saved = time.monotonic()

    def step(self, x: Tensor, y: Tensor) -> tuple[bool, bool]:
        """Learn from one batch, inputs and targets (T, B); say whether to stop after it, and whether to save."""
        started = time.perf_counter()
        set_learning_rate(self.optimizer, self.settings, self.share_done())
        logits, state = self.network(x, self.carried)  # (T, B, V)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip or math.inf)
        due = time.monotonic() - self.saved > SECONDS_BETWEEN_SAVES
        # One exchange between processes for all that they have to agree on.
        wishes = [float(self.observer.wants_to_stop()), float(due)]
        nats, length, stop, save = self.world.mean([loss.item(), norm.item(), *wishes])
        self.refuse_non_finite(nats, length)
        self.optimizer.step()
        if self.average:
            self.average.update_parameters(self.model)
        self.carried = detach(state) if self.batches.carries_state else None
        seconds = time.perf_counter() - started
        if self.settings.seconds:  # which decide on the learning rate and the end, hence are the same for all
            [seconds] = self.world.mean([seconds])
        self.count(nats, length, seconds)
        return stop > 0, save > 0

    def count(self, nats: float, norm: float, seconds: float) -> None:
        """Add a batch to the sums of its epoch."""
        self.progress.batch += 1
        self.progress.nats += nats
        self.progress.norms += norm
        self.progress.seconds += seconds
        self.progress.total_seconds += seconds

    def share_done(self) -> float:
        """The share of the whole training that is over."""
        if self.settings.seconds:
            return self.progress.total_seconds / self.settings.seconds
        steps = self.progress.epoch * len(self.batches) + self.progress.batch
        return steps / (self.settings.epochs * len(self.batches))

    def is_done(self) -> bool:
        """Whether all epochs, or all seconds, are over."""
        if self.settings.seconds:
            return self.out_of_time() and self.progress.batch == 0  # and the epoch they ended in is measured
        return self.progress.epoch >= self.settings.epochs

    def out_of_time(self) -> bool:
        """Whether all seconds are over, where there are any."""
        return 0 < self.settings.seconds <= self.progress.total_seconds

    def refuse_non_finite(self, nats: float, norm: float) -> None:
        """Stop before the weights are spoilt."""
        if not (math.isfinite(nats) and math.isfinite(norm)):
            where = f"epoch {self.progress.epoch + 1}, step {self.progress.batch + 1}"
            raise DivergedError(
                "training goes on while loss and gradient are finite numbers",
                f"loss {nats} and gradient norm {norm} in {where}",
                "train anew with a smaller --learning-rate or --clip; what was saved before is kept",
            )

    def finish_epoch(self) -> None:
        """Measure, and tell the observer."""
        done, count = self.progress, self.progress.batch
        tokens = count * self.batches.batch_size * self.batches.steps
        score = self.world.agree(self.measure(self.best_model)) if self.measure else None
        perplexity = math.exp(min(done.nats / count, 700.0))
        measured: dict[str, Any] = {
            "epoch": done.epoch + 1,
            "train_perplexity": perplexity,
            "val_perplexity": score.perplexity if score else None,
            "val_bits_per_character": score.bits_per_character if score else None,
            "tokens_per_second": tokens / done.seconds,
            "gradient_norm": done.norms / count,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": done.total_seconds,
        }
        reached = score.perplexity if score else perplexity
        is_best = reached < done.best
        best = (reached, done.epoch + 1) if is_best else (done.best, done.best_epoch)
        self.progress = Progress(done.epoch + 1, 0, *best, total_seconds=done.total_seconds)
        self.carried = None
        self.observer.on_epoch(self, measured, is_best)

    def out_of_patience(self) -> bool:
        """Whether too many epochs have gone by without a better one."""
        patience = self.settings.patience
        return patience > 0 and self.progress.epoch - self.progress.best_epoch >= patience

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that going on needs (see `checkpoint`)."""
        named = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.average:
            named |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        for place, values in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{place}.{key}": value for key, value in values.items()}
        for place, tensor in enumerate(as_tuple(self.carried)):
            named[f"carried.{place}"] = self.world.gather(tensor)
        named["random.cpu"] = torch.get_rng_state()
        if self.world.device.type == "cuda":
            named["random.cuda"] = torch.cuda.get_rng_state(self.world.device)
        return named


def as_tuple(state: Any) -> tuple[Tensor, ...]:
    """A state as a tuple of its tensors; none for None."""
    if state is None:
        return ()
    return (state,) if isinstance(state, Tensor) else tuple(state)
