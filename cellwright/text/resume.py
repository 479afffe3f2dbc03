"""Going on with a training from its last checkpoint, bit for bit as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cellwright.errors import RunError
from cellwright.text.checkpoint import check_tensors, load_checkpoint
from cellwright.text.train import Progress, Trainer, as_tuple

GROUPS = ("model", "average", "optimizer", "carried", "random")


def restore(trainer: Trainer, path: Path) -> None:
    """Put weights, average, optimizer, carried state, random generators and progress back.

    Args:
        trainer: a fresh one with the settings of the run.
        path: its last.safetensors.

    Raises:
        RunError: the file is damaged, or belongs to another model.
    """
    tensors, values = load_checkpoint(path, "training")
    progress = _progress(path, values, trainer)
    groups = {name: part(tensors, name) for name in GROUPS}
    check_tensors(path, {name: t for name, t in tensors.items() if name.partition(".")[0] not in GROUPS}, {})
    check_tensors(path, groups["model"], trainer.model.state_dict())
    check_tensors(path, groups["average"], trainer.average.state_dict() if trainer.average else {})
    check_tensors(path, groups["optimizer"], _expected_optimizer(trainer, groups["optimizer"]))
    check_tensors(path, groups["carried"], _expected_carried(trainer) if groups["carried"] else {})
    check_tensors(path, {"cpu": groups["random"].get("cpu", torch.empty(0))}, {"cpu": torch.get_rng_state()})
    trainer.model.load_state_dict(groups["model"])
    if trainer.average:
        trainer.average.load_state_dict(groups["average"])
    _restore_optimizer(trainer, groups["optimizer"])
    carried = tuple(trainer.world.mine(tensor) for _, tensor in sorted(groups["carried"].items()))
    trainer.carried = (carried if len(carried) > 1 else carried[0]) if carried else None
    _restore_random(path, groups["random"], trainer.world.device)
    trainer.progress = progress


def part(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    """The tensors of one group of a checkpoint, without its name in front of theirs."""
    return {name.partition(".")[2]: t for name, t in tensors.items() if name.partition(".")[0] == group}


def _progress(path: Path, values: Mapping[str, Any], trainer: Trainer) -> Progress:
    kinds = {field.name: type(getattr(Progress(), field.name)) for field in fields(Progress)}
    sound = values.keys() == kinds.keys() and all(type(values[name]) is kind for name, kind in kinds.items())
    if not sound or values["epoch"] < 0 or not 0 <= values["batch"] <= len(trainer.batches):
        raise RunError(
            "the progress in a checkpoint says how many epochs and batches are done",
            f"{dict(values)} in {path}",
            "restore the file from a copy, or train again",
        )
    return Progress(**values)


def _parameters(trainer: Trainer) -> list[Tensor]:
    return [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]


def _expected_optimizer(trainer: Trainer, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the optimizer remembers of each parameter: numbers of its shape, and a count of its steps."""
    if trainer.settings.optimizer == "sgd" or not found:
        return {}
    expected: dict[str, Tensor] = {}
    for place, parameter in enumerate(_parameters(trainer)):
        expected |= {f"{place}.{key}": parameter for key in ("exp_avg", "exp_avg_sq")}
        expected[f"{place}.step"] = torch.zeros(())
    return expected


def _expected_carried(trainer: Trainer) -> dict[str, Tensor]:
    """States of the whole batch, as the model gives them."""
    tokens = torch.zeros(1, trainer.batches.batch_size, dtype=torch.long, device=trainer.world.device)
    with torch.no_grad(), torch.random.fork_rng():
        _, state = trainer.model(tokens)
    return {str(place): tensor for place, tensor in enumerate(as_tuple(state))}


def _restore_optimizer(trainer: Trainer, found: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in found.items():
        place, _, key = name.partition(".")
        state.setdefault(int(place), {})[key] = tensor
    trainer.optimizer.load_state_dict({"state": state, "param_groups": trainer.optimizer.state_dict()["param_groups"]})


def _restore_random(path: Path, found: Mapping[str, Tensor], device: torch.device) -> None:
    try:
        torch.set_rng_state(found["cpu"])
        if device.type == "cuda" and "cuda" in found:
            torch.cuda.set_rng_state(found["cuda"], device)
    except (KeyError, RuntimeError, TypeError) as error:
        raise RunError(
            "a checkpoint holds the state of the random generators",
            f"{path}: {error}",
            "restore the file from a copy, or train again",
        ) from error
