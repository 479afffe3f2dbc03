"""Cells on a GPU: kernels of backend "triton" against cuDNN, FlashRNN, the eager loop and torch.compile; and barriers.

    python benchmarks/gpu.py                     # checks, then times all shapes; a table with device and versions
    python benchmarks/gpu.py --barriers          # what a wait of 128 programs for each other takes

Needs a GPU; without one it says so and ends with status 2. Times are by CUDA events, in turns, medians of rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from flash import flash_lstm
from rich.console import Console
from rich.table import Table

import cellwright as cw
from cellwright.cells import LIBRARY, Cell
from cellwright.kernels.triton.functions import meet


class Case(NamedTuple):
    """A training step that is timed, and against what."""

    cell: str
    dtype: torch.dtype
    shape: tuple[int, int, int, int]  # T, B, I, H
    rivals: tuple[str, ...]


SEED, LARGE, FLASH, MIDDLE = (35, 32, 28, 256), (1024, 64, 1024, 1024), (1024, 16, 768, 768), (512, 64, 512, 512)
CASES = (
    *(Case(cell, torch.float32, SEED, ("cudnn", "cudnn-tf32")) for cell in ("lstm", "gru")),
    *(Case(cell, torch.bfloat16, LARGE, ("cudnn",)) for cell in ("lstm", "gru")),
    *(Case("lstm", dtype, FLASH, ("cudnn", "flashrnn")) for dtype in (torch.float16, torch.bfloat16)),
    *(
        Case(cell, torch.bfloat16, MIDDLE, ("eager", "compile"))
        for cell in ("lstm-layernorm", "lstm-peephole", "gru-reset-before")
    ),
)
AGREE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--barriers", action="store_true", help="only what waiting for each other takes")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a GPU; PyTorch finds none here; run it on a machine with one", file=sys.stderr)
        raise SystemExit(2)
    console, versions = Console(), f"torch {torch.__version__}, triton {triton.__version__}"
    console.print(f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, {versions}, cellwright {cw.__version__}")
    if given.barriers:
        barriers(console)
        return
    table = Table("cell", "type", "T,B,I,H", "rival", "rival ms", "ours ms", "ours is x faster", "differ by")
    for case in CASES:
        for rival in case.rivals:
            table.add_row(*row(case, rival, given.rounds))
    console.print(table)


def row(case: Case, rival: str, rounds: int) -> tuple[str, ...]:
    """Check and time one rival."""
    T, B, I, H = case.shape
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = rival.endswith("tf32")
    torch.manual_seed(0)
    cell = LIBRARY[case.cell](I, H).to("cuda", case.dtype)
    ours, theirs = cw.Recurrent(cell, backend="triton"), rival_of(cell, rival)
    sizes = ",".join(map(str, case.shape))
    names = (case.cell, str(case.dtype).removeprefix("torch."), sizes, rival)
    if theirs is None:
        return (*names, "not installed")
    x = torch.randn(T, B, I, device="cuda", dtype=case.dtype)
    dy = torch.randn(T, B, cell.output_size, device="cuda", dtype=case.dtype)
    weights = list(cell.parameters())
    steps = [training(layer, x, dy, weights) for layer in (theirs, ours)]
    difference = max(map(apart, *(step() for step in steps)))
    if difference > AGREE[case.dtype]:
        raise SystemExit(f"{case.cell} and {rival} differ by {difference:.1e}: nothing was timed")
    pairs = [(milliseconds(steps[0]), milliseconds(steps[1])) for _ in range(rounds)]
    slow, fast = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    return (*names, f"{slow:.2f}", f"{fast:.2f}", f"{ratio:.2f}", f"{difference:.0e}")


def rival_of(cell: Cell, rival: str) -> Callable | None:
    """The rival's layer on the same weights; None where it is not installed."""
    if rival == "flashrnn":
        return flash_lstm(cell)
    layer = cw.Recurrent(cell, backend="torch" if rival.startswith("cudnn") else "eager")
    return torch.compile(layer) if rival == "compile" else layer


def training(layer: Callable, x: torch.Tensor, dy: torch.Tensor, weights: list[torch.Tensor]) -> Callable:
    """Forward, and backward to the gradients of all weights, which change in place in between."""

    def step() -> list[torch.Tensor]:
        with torch.no_grad():
            for weight in weights:
                weight.mul_(1.0)
        y = layer(x)[0]
        return [y.detach(), *torch.autograd.grad(y, weights, dy)]

    return step


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).abs().max() / max(1e-6, other.abs().max().item())).item()


def milliseconds(work: Callable, least: float = 100.0) -> float:
    """The time of one call, by events, over as many as take a tenth of a second."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    count = 1
    while True:
        torch.cuda.synchronize()
        start.record()
        for _ in range(count):
            work()
        end.record()
        torch.cuda.synchronize()
        if start.elapsed_time(end) >= least:
            return start.elapsed_time(end) / count
        count *= 2


@triton.jit
def waiting(counter, times, PROGRAMS: tl.constexpr):
    for turn in range(times):
        meet(counter, (turn + 1) * PROGRAMS)


def barriers(console: Console, times: int = 10_000) -> None:
    """What it takes programs to wait for each other, by how many they are."""
    for programs in (2, 8, 32, 64, 128):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(2):  # the first compiles
            counter = torch.zeros(1, dtype=torch.int32, device="cuda")
            start.record()
            waiting[(programs,)](counter, times, PROGRAMS=programs, launch_cooperative_grid=True)
            end.record()
            torch.cuda.synchronize()
        console.print(f"{programs} programs: {1e3 * start.elapsed_time(end) / times:.2f} us a wait")


if __name__ == "__main__":
    main()
