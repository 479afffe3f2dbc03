"""Which backend runs a cell, and the reason in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from cellwright.cells import Cell
from cellwright.errors import BackendError
from cellwright.kernels.torch_nn import run_torch, standard_form
from cellwright.step import unroll

Runner = Callable[[Cell, Tensor, tuple[Tensor, ...]], tuple[Tensor, tuple[Tensor, ...]]]
BACKENDS = ("auto", "torch", "eager")


class Choice(NamedTuple):
    """A backend's name, the function that runs it, and why it was taken."""

    backend: str
    run: Runner
    reason: str


def choose(cell: Cell, backend: str = "auto") -> Choice:
    """The backend for a cell: the one asked for, or the fastest that computes the same.

    >>> from cellwright.cells import GRU
    >>> choose(GRU(3, 5)).backend, choose(GRU(3, 5, reset_after=False)).backend
    ('torch', 'eager')

    Raises:
        BackendError: the backend does not exist, or was asked for by name and cannot run this cell.
    """
    if backend not in BACKENDS:
        raise BackendError(f"a backend is one of {', '.join(BACKENDS)}", repr(backend), "write one of those names")
    form = standard_form(cell)
    name = type(cell).__name__
    if backend == "eager":
        return Choice("eager", unroll, "asked for by name: the equations step by step in a Python loop")
    if form is not None:
        asked = "asked for by name" if backend == "torch" else f"{cell} is exactly a cell of torch.nn"
        return Choice("torch", run_torch, f"{asked}: PyTorch's own kernel {form.kernel} runs it")
    if backend == "torch":
        raise BackendError(
            "backend 'torch' runs exactly the cells of torch.nn: RNN, GRU with the reset after the product, LSTM",
            f"{cell}, whose equations torch.nn does not have",
            "write backend='auto' or backend='eager'",
        )
    return Choice("eager", unroll, f"torch.nn does not have the equations of {name}: they run step by step")
