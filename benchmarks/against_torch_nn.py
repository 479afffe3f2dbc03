"""torch.nn.LSTM, GRU and RNN (oneDNN and ATen on the CPU) and ours in their place: same weights, both tasks."""

from __future__ import annotations

import argparse

import torch
from common import (
    CELLS,
    GATES,
    NN,
    OUTPUTS,
    Row,
    Shape,
    Work,
    agree,
    agree_on_gradients,
    finish,
    gradients,
    inference,
    inputs,
    measure,
    options,
    start,
    training,
)
from machine import peak
from torch import Tensor, nn

import cellwright as cw

VERSIONS = f"torch {torch.__version__}"


def main() -> None:
    given = options(__doc__, cells=CELLS).parse_args()
    start(given)
    given.peak = peak(given.threads)
    rows = [row for size in given.shapes for name in given.cells for row in rows_of(name, size, given)]
    finish(f"torch.nn ({VERSIONS})", rows, given)


def rows_of(name: str, size: Shape, given: argparse.Namespace) -> list[Row]:
    """Check and time one cell in one shape."""
    rival = NN[name](size.I, size.H)
    ours = cw.from_torch(rival)
    ours.backend = "c"
    x, dy = inputs(size, given.dx)
    title = f"nn.{type(rival).__name__}"
    works = inference(lambda: rival(x)[0]), inference(lambda: ours(x)[0])
    difference = agree(f"outputs of {name} {size}", works[1].call(), works[0].call(), OUTPUTS)
    rows = [measure((title, name, "infer"), size, works, GATES[name], difference, given, VERSIONS)]
    works = work_training(rival, x, dy), work_training(ours, x, dy)
    difference = check_gradients(f"{name} {size}", works, ours, rival, x)
    rows.append(measure((title, name, "train"), size, works, GATES[name], difference, given, VERSIONS))
    return rows


def work_training(layer: nn.Module, x: Tensor, dy: Tensor) -> Work:
    """A training step of a layer that returns (y, state)."""
    return training(lambda: layer(x)[0], list(layer.parameters()), dy, x)


def check_gradients(what: str, works: tuple[Work, Work], ours: nn.Module, rival: nn.Module, x: Tensor) -> float:
    """That the gradients of all weights, and of x where it is wanted, are the same."""
    theirs = gradients(works[0], [*rival.parameters(), x])
    return agree_on_gradients(what, zip(gradients(works[1], [*ours.parameters(), x]), theirs, strict=True))


if __name__ == "__main__":
    main()
