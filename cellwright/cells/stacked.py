"""Stacked: the cells of torch.nn on its own stacked weights, what `cellwright.LSTM` and its like run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from cellwright.cells.cell import Cell


class Stacked(Cell):
    """A cell whose gates are rows of weight_ih (G*H, I) and weight_hh (G*H, P), as torch.nn stacks them."""

    # `gates` are in the order in which their rows are stacked.

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, proj_size: int = 0) -> None:
        super().__init__(input_size, hidden_size)
        self.proj_size = proj_size
        rows, shown = len(self.gates) * hidden_size, proj_size or hidden_size
        self.weight_ih = nn.Parameter(torch.zeros(rows, input_size))
        self.weight_hh = nn.Parameter(torch.zeros(rows, shown))
        self.bias_ih = nn.Parameter(torch.zeros(rows)) if bias else None
        self.bias_hh = nn.Parameter(torch.zeros(rows)) if bias else None
        if proj_size:
            self.weight_hr = nn.Parameter(torch.zeros(proj_size, hidden_size))

    @property
    def output_size(self) -> int:
        return self.proj_size or self.hidden_size

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return (self.output_size, self.hidden_size)[: len(self.state)]


class StackedRNN(Stacked):
    """torch.nn.RNN with tanh."""

    gates = {"h": "hidden state"}

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        h = torch.tanh(linear(x, self.weight_ih, self.bias_ih) + linear(h, self.weight_hh, self.bias_hh))
        return h


class StackedReluRNN(StackedRNN):
    """torch.nn.RNN with relu."""

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        h = torch.relu(linear(x, self.weight_ih, self.bias_ih) + linear(h, self.weight_hh, self.bias_hh))
        return h


class StackedGRU(Stacked):
    """torch.nn.GRU: the reset gate acts after the product."""

    gates = {"r": "reset gate", "z": "update gate", "n": "candidate"}

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        xr, xz, xn = linear(x, self.weight_ih, self.bias_ih).chunk(3, 1)
        hr, hz, hn = linear(h, self.weight_hh, self.bias_hh).chunk(3, 1)
        r = torch.sigmoid(xr + hr)
        z = torch.sigmoid(xz + hz)
        n = torch.tanh(xn + r * hn)
        h = (1 - z) * n + z * h
        return h


class StackedGRUBefore(StackedGRU):
    """The GRU of Cho et al. (2014) on the same weights: the reset gate acts before the product."""

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        xr, xz, xn = linear(x, self.weight_ih, self.bias_ih).chunk(3, 1)
        Wr, Wz, Wn = self.weight_hh.chunk(3)
        br, bz, bn = (None, None, None) if self.bias_hh is None else self.bias_hh.chunk(3)
        r = torch.sigmoid(xr + linear(h, Wr, br))
        z = torch.sigmoid(xz + linear(h, Wz, bz))
        n = torch.tanh(xn + linear(r * h, Wn, bn))
        h = (1 - z) * n + z * h
        return h


class StackedLSTM(Stacked):
    """torch.nn.LSTM, with proj_size that of Sak et al. (2014), whose h is a projection."""

    state = ("h", "c")
    gates = {"i": "input gate", "f": "forget gate", "g": "cell candidate", "o": "output gate"}

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        gates = linear(x, self.weight_ih, self.bias_ih) + linear(h, self.weight_hh, self.bias_hh)
        i, f, g, o = gates.chunk(4, 1)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        c = f * c + i * g
        h = o * torch.tanh(c)
        if self.proj_size:
            h = linear(h, self.weight_hr)
        return h, c


Template = tuple[Any, int, int, bool, int, torch.dtype]  # class, I, H, bias, proj_size, type
_templates: dict[Template, Cell] = {}


def template(kind: Any, inputs: int, hidden: int, bias: bool, proj: int, dtype: torch.dtype) -> Cell:
    """A cell of these sizes, the same for all layers, which costs no memory: its weights come from outside."""
    key = (kind, inputs, hidden, bias, proj, dtype)
    if key not in _templates:
        with torch.device("meta"):
            _templates[key] = kind(inputs, hidden, bias, proj).to(dtype)
    return _templates[key]
