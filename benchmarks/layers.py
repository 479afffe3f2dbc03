"""LSTM layers as people use them against torch.nn.LSTM: ragged, in both directions, projected, step by step."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from common import (
    OUTPUTS,
    Row,
    Shape,
    Work,
    agree,
    agree_on_gradients,
    finish,
    gradients,
    inference,
    measure,
    options,
    start,
    training,
)
from machine import peak
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import cellwright as cw

VERSIONS = f"torch {torch.__version__}"
RAGGED, BOTH = Shape(100, 64, 128, 256), Shape(100, 32, 128, 256)
PROJECTED, STEP = Shape(100, 32, 128, 256), Shape(1, 1, 28, 256)


def main() -> None:
    given = options(__doc__, rounds=9).parse_args()
    start(given)
    given.peak = peak(given.threads)
    quick = given.shapes[0] if given.shapes[0].T < 20 else None
    rows = [ragged(quick or RAGGED, given), both(quick or BOTH, given), projected(quick or PROJECTED, given)]
    rows.append(step(STEP if quick is None else quick._replace(T=1, B=1), given))
    finish(f"torch.nn.LSTM ({VERSIONS})", rows, given)


def ragged(size: Shape, given: argparse.Namespace) -> Row:
    """Lengths from 1 to T, so that half of a padded batch would be padding; both sides get the same PackedSequence."""
    lengths = torch.linspace(1, size.T, size.B).round().long().flip(0)
    x = pack_padded_sequence(torch.randn(size.T, size.B, size.I), lengths)
    share = float(lengths.sum()) / (size.T * size.B)
    return train("ragged", size, nn.LSTM(size.I, size.H), x, torch.randn(len(x.data), size.H), share, given)


def both(size: Shape, given: argparse.Namespace) -> Row:
    """Two layers that each read in both directions."""
    layer = nn.LSTM(size.I, size.H, 2, bidirectional=True)
    x, dy = torch.randn(size.T, size.B, size.I), torch.randn(size.T, size.B, 2 * size.H)
    H, I = size.H, size.I
    share = 2 * ((3 * H + 2 * I) + (3 * H + 2 * 2 * H + 2 * H)) / (3 * H + 2 * I)  # the second wants dx
    return train("2 layers, both directions", size, layer, x, dy, share, given)


def projected(size: Shape, given: argparse.Namespace) -> Row:
    """h is projected from H columns to half as many."""
    P = size.H // 2
    layer = nn.LSTM(size.I, size.H, proj_size=P)
    x, dy = torch.randn(size.T, size.B, size.I), torch.randn(size.T, size.B, P)
    share = (3 * 4 * P + 2 * 4 * size.I + 3 * P) / (4 * (3 * size.H + 2 * size.I))
    return train(f"projected to {P}", size, layer, x, dy, share, given)


def step(size: Shape, given: argparse.Namespace) -> Row:
    """One step of a stream against one call."""
    theirs = nn.LSTM(size.I, size.H)
    stream, x = cw.from_torch(theirs).stream(), torch.randn(1, 1, size.I)
    with torch.no_grad():
        difference = agree("a step", stream(x[0]), theirs(x)[0][0], OUTPUTS)
    works = inference(lambda: theirs(x)), inference(lambda: stream(x[0]))
    return measure(("nn.LSTM call", "lstm, stream", "infer"), size, works, 4, difference, given, VERSIONS)


def train(what: str, size: Shape, theirs: nn.LSTM, x: Any, dy: Tensor, share: float, given: argparse.Namespace) -> Row:
    """A training step of both, with the same weights; `share`: products as a share of a plain layer's."""
    ours = cw.from_torch(theirs)
    works = work(theirs, x, dy), work(ours, x, dy)
    found = [gradients(one, layer.parameters()) for one, layer in zip(works, (theirs, ours), strict=True)]
    difference = agree_on_gradients(what, zip(found[1], found[0], strict=True))
    return measure(("nn.LSTM", f"lstm, {what}", "train"), size, works, 4 * share, difference, given, VERSIONS)


def work(layer: Callable[..., Any], x: Any, dy: Tensor) -> Work:
    """A training step; of a PackedSequence the rows."""

    def forward() -> Tensor:
        y = layer(x)[0]
        return y.data if isinstance(y, PackedSequence) else y

    return training(forward, list(layer.parameters()), dy, torch.empty(0))  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
