"""Check: an exported file computes what its model does, at lengths and batch sizes that nobody traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cellwright.errors import CellwrightError, ExportError
from cellwright.ship.signature import Signature
from cellwright.text.files import write_atomically

SIZES = ((1, 1), (4, 3), (9, 2))  # T and B
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}  # a share of the largest number, or of 1
Runner = Callable[[list[Tensor]], list[Tensor]]


class Exported(NamedTuple):
    """What was exported, and how it was checked; its str() is what a user sees."""

    path: Path
    size: int
    """Bytes."""
    kind: str
    """What reads it."""
    signature: Signature
    difference: float
    """The largest one found, as a share of the largest number of its tensor, or of 1."""

    def __str__(self) -> str:
        sizes = ", ".join(f"T={steps} B={batch}" for steps, batch in SIZES)
        lines = [f"{self.path}: {self.size:,} bytes, {self.kind}", "inputs"]
        lines += [f"  {value}" for value in self.signature.inputs]
        lines += ["outputs", *(f"  {value}" for value in self.signature.outputs)]
        lines.append(f"checked against the model at {sizes}: largest difference {self.difference:.1e}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        named = {"inputs": self.signature.inputs, "outputs": self.signature.outputs}
        shapes = {side: {value.name: list(value.shape) for value in values} for side, values in named.items()}
        checked = {"checked": [{"T": steps, "B": batch} for steps, batch in SIZES], "difference": self.difference}
        return {"file": str(self.path), "bytes": self.size, "kind": self.kind, **shapes, **checked}


def check_and_write(
    path: Path, content: bytes, kind: str, run: Runner, model: nn.Module, signature: Signature
) -> Exported:
    """Write a file after it has computed what the model does; else nothing is written.

    Args:
        path: where it goes.
        content: the file.
        kind: what reads it.
        run: runs the file.
        model: the model.
        signature: what goes in and out.

    Raises:
        ExportError: the file computes something else.
        RunError: it cannot be written.
    """
    difference = max(_difference(run, model, signature, steps, batch) for steps, batch in SIZES)
    write_atomically(path, content)
    return Exported(path, len(content), kind, signature, difference)


@contextmanager
def in_words(who: str) -> Iterator[None]:
    """Whatever the tools of others raise, which have no common class of errors, as an error of ours."""
    try:
        yield
    except CellwrightError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ExportError(f"{who} what is exported", said, "please report it, with the cell") from error


@torch.no_grad()
def _difference(run: Runner, model: nn.Module, signature: Signature, steps: int, batch: int) -> float:
    inputs = signature.draw(steps, batch)
    wanted = signature.call(model, inputs)
    largest = 0.0
    for value, one, other in zip(signature.outputs, run(inputs), wanted, strict=True):
        apart = _apart(one, other)
        if not apart <= TOLERANCE[value.dtype]:
            raise ExportError(
                f"an exported file computes what the model does, up to {TOLERANCE[value.dtype]:g}",
                f"{value.name} apart by {apart:.1e} at T={steps}, B={batch}",
                "nothing was written; this is a fault of Cellwright's: please report it, with the cell",
            )
        largest = max(largest, apart)
    return largest


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest difference, as a share of the largest number or of 1; infinite where shapes or NaN differ."""
    if one.shape != other.shape or not torch.equal(one.isnan(), other.isnan()):
        return float("inf")
    apart = torch.where((one == other) | other.isnan(), 0, (one - other).abs())
    largest = torch.where(other.isfinite(), other.abs(), 0).max()
    return float(apart.max() / largest.clamp(min=1))
