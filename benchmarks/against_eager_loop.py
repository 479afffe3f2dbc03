"""Against the loop in Python over cells written from the formulas, and over the same cells optimised by hand."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from cells import WRITTEN, Written, loop, zeros
from common import (
    OUTPUTS,
    SHAPES,
    Row,
    Shape,
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
from torch import Tensor

import cellwright as cw

VERSIONS = f"torch {torch.__version__}"


def main() -> None:
    given = options(__doc__, shapes=SHAPES[:1], cells=WRITTEN, rounds=9).parse_args()
    start(given)
    given.peak = peak(given.threads)
    rows = [row for size in given.shapes for name in given.cells for row in rows_of(name, size, given)]
    finish(f"Loops in Python ({VERSIONS})", rows, given)


def rows_of(name: str, size: Shape, given: argparse.Namespace) -> list[Row]:
    """Check and time one cell in one shape against its loops."""
    module = WRITTEN[name](size.I, size.H)
    state = zeros(module, size.B)
    rivals = {"eager loop": lambda x: loop(module, x, state)}
    if hasattr(module, "by_hand"):
        rivals["loop by hand"] = lambda x: module.by_hand(x, state)
    return [row for title, rival in rivals.items() for row in pair(title, name, size, module, rival, given)]


def pair(
    title: str, name: str, size: Shape, module: Written, rival: Callable[[Tensor], Tensor], given: argparse.Namespace
) -> list[Row]:
    """Check and time a loop over a module, and the same module, adapted as it is, in ours."""
    ours = cw.Recurrent(cw.adapt(module), backend="c")
    x, dy = inputs(size, given.dx)
    works = inference(lambda: rival(x)), inference(lambda: ours(x)[0])
    difference = agree(f"outputs of {name} {size}", works[1].call(), works[0].call(), OUTPUTS)
    gates = len(module.gates)
    rows = [measure((title, name, "infer"), size, works, gates, difference, given, VERSIONS)]
    weights = list(module.parameters())
    works = training(lambda: rival(x), weights, dy, x), training(lambda: ours(x)[0], weights, dy, x)
    theirs, own = (gradients(work, [*weights, x]) for work in works)
    difference = agree_on_gradients(f"{name} {size}", zip(own, theirs, strict=True))
    rows.append(measure((title, name, "train"), size, works, gates, difference, given, VERSIONS))
    return rows


if __name__ == "__main__":
    main()
