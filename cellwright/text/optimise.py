"""Optimizers, courses of the learning rate, and the running average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cellwright.text.config import TrainingSettings

RISING = 0.3  # share of a one-cycle training in which the rate rises
FIRST = 1 / 25  # of the largest rate
LAST = 1e-4


def one_cycle(done: float) -> float:
    """Up for a while, then down to almost nothing (Smith and Topin 2017, arXiv 1708.07120)."""
    if done < RISING:
        return _cosine(FIRST, 1.0, done / RISING)
    return cosine((done - RISING) / (1 - RISING))


def cosine(done: float) -> float:
    """From the full rate down to almost nothing along half a cosine."""
    return _cosine(1.0, LAST, done)


def _cosine(start: float, end: float, share: float) -> float:
    return start + (end - start) * (1 - math.cos(math.pi * share)) / 2


# Each gives the factor of the learning rate when a share `done` of the training is over.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "one-cycle": one_cycle,
    "cosine": cosine,
    "constant": lambda done: 1.0,
}


def build_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """The optimizer of the settings; weight decay pulls on matrices only, not on biases."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, fused=True)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, settings: TrainingSettings, done: float) -> float:
    """Set and return the learning rate after a share `done` of the training."""
    rate = settings.learning_rate * SCHEDULES[settings.schedule](min(done, 1.0))
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def build_average(model: nn.Module, decay: float) -> AveragedModel | None:
    """A running average of the weights, whose memory grows to the decay; None for decay 0."""
    if decay == 0:
        return None

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Any) -> None:
        young = (1 + float(count)) / (10 + float(count))  # early weights are soon forgotten
        average_of: Any = get_ema_multi_avg_fn
        average_of(min(decay, young))(averaged, current, count)

    return AveragedModel(model, multi_avg_fn=update)
