"""One process or several that train together (torchrun): who I am, and what all agree on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cellwright.errors import CellwrightError, SettingError
from cellwright.layers import Dropout

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among all that train together, and the device it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def writes(self) -> bool:
        """Whether this process is the one that prints and writes files."""
        return self.rank == 0

    def check_batch(self, batch_size: int) -> None:
        """Refuse a batch that cannot be cut into equal parts."""
        if batch_size % self.size:
            raise SettingError(
                f"batch_size is shared out equally among {self.size} processes",
                f"batch_size={batch_size}",
                f"write a multiple of {self.size}",
            )

    def mine(self, x: Tensor) -> Tensor:
        """This process's rows of a batch x (T, B, ...), on its device."""
        rows = x.shape[1] // self.size
        return x[:, self.rank * rows : (self.rank + 1) * rows].to(self.device, non_blocking=True)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over all processes, and dropout masks cut from the whole batch's."""
        for module in model.modules():
            if isinstance(module, Dropout):
                module.rows(self.rank, self.size)
        if self.size == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices)

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean of each value over all processes."""
        if self.size == 1:
            return list(values)
        together = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(together)
        return [float(value) / self.size for value in together]

    def first(self, do: Callable[[], T]) -> T:
        """What `do` returns on the first process, for all; where it fails there, it fails on all."""
        if self.size == 1:
            return do()
        result: T | None = None
        failure: CellwrightError | None = None
        if self.writes:
            try:
                result = do()
            except CellwrightError as error:
                failure = error
        result, failure = self.agree((result, failure))
        if failure:
            raise failure
        return cast(T, result)

    def agree(self, value: Any) -> Any:
        """The value of the first process, for all."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def gather(self, x: Tensor) -> Tensor:
        """A tensor (L, B, ...) of the whole batch from every process's rows."""
        if self.size == 1:
            return x
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts, dim=1)

    def leave(self) -> None:
        """Say goodbye to the other processes."""
        if dist.is_initialized():
            dist.destroy_process_group()


def join_world(device: str) -> World:
    """This process's place, from what torchrun sets in the environment; alone without it.

    Args:
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".

    Raises:
        SettingError: the device does not exist here.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    place = _device(device, local)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if size > 1:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    return World(rank, size, place)


def _device(name: str, local: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device("cuda", local) if name == "cuda" else torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingError(
            "a device is auto, cpu, cuda, or mps, and there is one for each process",
            f"{name!r}, which is not on this machine",
            "write --device auto or cpu",
        ) from error
    return device
