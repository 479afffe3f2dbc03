"""Against torch.compile of the loop, warm, and what compiling took: every step is unrolled, so keep T short."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable

import torch
from cells import WRITTEN, loop, zeros
from common import (
    OUTPUTS,
    SHAPES,
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

import cellwright as cw

VERSIONS = f"torch {torch.__version__}"


def main() -> None:
    given = options(__doc__, shapes=SHAPES[:1], cells=WRITTEN, rounds=7).parse_args()
    start(given)
    given.peak = peak(given.threads)
    warnings.filterwarnings("ignore", module="torch")
    with tempfile.TemporaryDirectory(prefix="cold-inductor-") as cache:  # nothing of an earlier run: compiling is cold
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        rows = [row for size in given.shapes for name in given.cells for row in rows_of(name, size, given)]
    finish(f"torch.compile of the unrolled loop ({VERSIONS})", rows, given)


def rows_of(name: str, size: Shape, given: argparse.Namespace) -> list[Row]:
    """Check and time one cell in one shape."""
    torch.compiler.reset()
    module = WRITTEN[name](size.I, size.H)
    state, gates, weights = zeros(module, size.B), len(module.gates), list(module.parameters())
    ours = cw.Recurrent(cw.adapt(module), backend="c")
    compiled: Callable[..., torch.Tensor] = torch.compile(loop, fullgraph=True, dynamic=False)
    x, dy = inputs(size, given.dx)
    works = inference(lambda: compiled(module, x, state)), inference(lambda: ours(x)[0])
    note = first_call(works[0])
    difference = agree(f"outputs of {name} {size}", works[1].call(), works[0].call(), OUTPUTS)
    rows = [measure(("torch.compile", name, "infer"), size, works, gates, difference, given, VERSIONS, note)]
    works = (
        training(lambda: compiled(module, x, state), weights, dy, x),
        training(lambda: ours(x)[0], weights, dy, x),
    )
    note = first_call(works[0])
    theirs, own = (gradients(work, [*weights, x]) for work in works)
    difference = agree_on_gradients(f"{name} {size}", zip(own, theirs, strict=True))
    rows.append(measure(("torch.compile", name, "train"), size, works, gates, difference, given, VERSIONS, note))
    return rows


def first_call(work: Work) -> str:
    """What the first call took, in words."""
    begin = time.perf_counter()
    work.call()
    return f"compiled in {time.perf_counter() - begin:.1f} s"


if __name__ == "__main__":
    main()
