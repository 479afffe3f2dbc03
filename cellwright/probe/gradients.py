"""gradient_flow: how far gradients reach back through time, exactly, and along which of the cell's values."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cellwright.errors import ShapeError
from cellwright.layers.sequences import Part, State
from cellwright.probe.bounds import log_bound
from cellwright.probe.norms import LARGEST_EXACT, SpectralNorm
from cellwright.probe.observe import Observed, as_layer, observe
from cellwright.probe.paths import path_shares

EXPONENTS = 8  # Lyapunov exponents that are found, the largest ones
ALL = "all states"


@dataclass(frozen=True)
class Flow:
    """The gradients of one cell through time.

    `log_norms` has for every state and for all of them together ("all states") the natural logarithms of the spectral
    norms of d s_T / d s_{T-k} (T + 1, B), k from 0 to T. `exponents` (at most 8, B) are the largest Lyapunov
    exponents a step. `log_bound` is that of (gamma_theta gamma_phi)^1, for cells that have one. `paths` has for
    every state the share of d s_t / d s_{t-1} that goes through each named value, with 1 as their sum.
    """

    where: str
    cell: str
    log_norms: dict[str, Tensor]
    exponents: Tensor
    log_bound: float | None
    paths: dict[str, dict[str, float]] = field(default_factory=dict)

    def norms(self, name: str = ALL) -> Tensor:
        """Spectral norms (T + 1, B) of d s_T / d s_{T-k}, at k the lag."""
        return self.log_norms[name].exp()

    def bound(self, lag: int) -> float:
        """(gamma_theta gamma_phi)^lag, which no norm exceeds; infinite where none is known, or it is beyond numbers."""
        power = math.inf if self.log_bound is None else self.log_bound * lag
        return math.exp(power) if power < 700 else math.inf

    def rate(self, name: str = ALL) -> float:
        """By what a step multiplies the norm: the geometric mean over all steps and sequences."""
        last = self.log_norms[name][-1]
        return float((last.mean() / (len(self.log_norms[name]) - 1)).exp())

    def __str__(self) -> str:
        steps = len(self.log_norms[ALL]) - 1
        lags = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if k < steps] + [steps]
        lines = [f"{self.where}: {self.cell}", f"  {'norm at lag':<12}" + "".join(f"{k:>10}" for k in lags)]
        for name, values in self.log_norms.items():
            lines.append(f"  {name:<12}" + "".join(f"{values[k].mean().exp():>10.2e}" for k in lags))
        if self.log_bound is not None:
            lines.append(f"  {'bound':<12}" + "".join(f"{self.bound(k):>10.2e}" for k in lags))
        lines.append(f"  a step multiplies by {', '.join(f'{self.rate(n):.3f} ({n})' for n in self.log_norms)}")
        for state, shares in self.paths.items():
            parts = ", ".join(f"{share:.1%} {name}" for name, share in shares.items())
            lines.append(f"  d {state}_t / d {state}_(t-1) goes through: {parts}")
        return "\n".join(lines)


@dataclass(frozen=True)
class GradientFlow:
    """The gradients of a layer through time: one Flow for every layer and direction."""

    cells: tuple[Flow, ...]

    def __getitem__(self, place: int) -> Flow:
        return self.cells[place]

    def __len__(self) -> int:
        return len(self.cells)

    def __str__(self) -> str:
        return "\n".join(map(str, self.cells))


def gradient_flow(
    layer: nn.Module,
    x: Tensor,
    state: Any = None,
    dtype: torch.dtype | None = None,
    exact: bool | None = None,
    paths_at: int = 8,
) -> GradientFlow:
    """How far the gradients of a layer reach back, and through which values.

    >>> from cellwright.cells import LSTM
    >>> flow = gradient_flow(LSTM(3, 5), torch.randn(20, 2, 3))[0]
    >>> flow.norms("c").shape, round(sum(flow.paths["c"].values()), 6)
    (torch.Size([21, 2]), 1.0)

    For every lag k, the Jacobian d s_T / d s_{T-k} is carried back a step by the step's own derivative, all its rows at
    once, and scaled so that nothing vanishes on the way.

    Args:
        layer: a layer, or a cell.
        x: inputs as the layer takes them, all sequences of the same length: (T, B, I) say.
        state: the states before the first step (default: zeros, or those learned).
        dtype: to compute in; torch.float64 for exactness (default: the type of the weights).
        exact: spectral norms by full decompositions (True), or by iterations to 4 digits (False), which takes
            seconds for hundreds of units (default: exact up to 64 columns of all states together).
        paths_at: at how many steps, spread evenly, the shares of paths are found (0: not at all).

    Returns:
        What it found, for every layer and direction; print it.

    Raises:
        ShapeError: x has another layout.
    """
    layer = as_layer(layer)
    if not isinstance(x, Tensor):
        rule = "gradients flow through sequences that are all as long"
        raise ShapeError(rule, type(x).__name__, "pass x (T, B, I), a length at a time")
    if dtype is not None:
        layer = copy.deepcopy(layer).to(dtype)
        x, state = x.to(dtype), _cast(state, dtype)
    seen, _ = observe(layer, x, state)
    names = ("forward", "backward")
    return GradientFlow(
        tuple(
            _flow(one, f"layer {place // layer.directions}, {names[place % layer.directions]}", exact, paths_at)
            for place, one in enumerate(seen)
        )
    )


def _cast(state: Any, dtype: torch.dtype) -> Any:
    if state is None or isinstance(state, Tensor):
        return state if state is None else state.to(dtype)
    return tuple(one.to(dtype) for one in state)


def _flow(seen: Observed, where: str, exact: bool | None, paths_at: int) -> Flow:
    cell = seen.part.cell
    before = states_before(seen)
    log_norms, exponents = _norms(seen.part, seen.x, before, exact)
    paths = path_shares(seen.part, seen.x, before, paths_at) if paths_at else {}
    return Flow(where, cell.in_one_line(), log_norms, exponents, log_bound(seen.part), paths)


def states_before(seen: Observed) -> State:
    """The states before every step, each (T, B, columns)."""
    pairs = zip(seen.part.cell.state, seen.first, strict=True)
    return tuple(torch.cat([first.unsqueeze(0), seen.named[name][:-1]]) for name, first in pairs)


def _norms(part: Part, x: Tensor, before: State, exact: bool | None) -> tuple[dict[str, Tensor], Tensor]:
    """Of every lag, the logarithms of the norms, and the largest Lyapunov exponents."""
    (T, B), sizes = x.shape[:2], [s.shape[2] for s in before]
    S, ends = sum(sizes), torch.tensor(sizes).cumsum(0).tolist()
    blocks = {n: slice(end - size, end) for n, end, size in zip(part.cell.state, ends, sizes, strict=True)}
    blocks = {**(blocks if len(blocks) > 1 else {}), ALL: slice(0, S)}
    count = min(EXPONENTS, S)
    measures = {name: SpectralNorm(S <= LARGEST_EXACT if exact is None else exact) for name in blocks}
    jacobian = torch.eye(S, dtype=x.dtype, device=x.device).expand(B, S, S)  # d s_T / d s_t, of every sequence
    frame = jacobian[:, :count]  # (B, count, S), orthonormal rows
    scale, exponents = torch.zeros(B, dtype=torch.float64), torch.zeros(count, B, dtype=torch.float64)
    log_norms = {name: [torch.zeros(B, dtype=torch.float64)] for name in blocks}
    for t in reversed(range(T)):
        moved = pull_back(part, x[t], tuple(s[t] for s in before), torch.cat([jacobian, frame], 1))
        jacobian, frame = moved[:, :S], moved[:, S:]
        largest = jacobian.abs().amax((1, 2))
        jacobian = jacobian / torch.where(largest > 0, largest, 1.0)[:, None, None]
        scale = scale + largest.double().cpu().log()
        for name, block in blocks.items():
            log_norms[name].append(scale + measures[name](jacobian[:, block, block]).double().cpu().log())
        q, r = torch.linalg.qr(frame.mT)  # (B, S, count), (B, count, count)
        frame, exponents = q.mT, exponents + r.diagonal(dim1=1, dim2=2).abs().double().cpu().log().T / T
    return {name: torch.stack(values) for name, values in log_norms.items()}, exponents


def pull_back(part: Part, x: Tensor, state: State, rows: Tensor) -> Tensor:
    """Rows (B, R, S) times the Jacobian of a step at (x, state): a vector-Jacobian product for each."""
    given = tuple(s.detach().requires_grad_() for s in state)
    with torch.enable_grad():
        result = torch.func.functional_call(part.cell, part.weights, (x, *given))
        _, new = part.cell.split_output(result)
    sizes = [s.shape[1] for s in state]
    tangents = rows.transpose(0, 1).split(sizes, -1)  # type: ignore[no-untyped-call]  # (R, B, columns) each
    used = [(n, t) for n, t in zip(new, tangents, strict=True) if n.requires_grad]
    if not used:
        return torch.zeros_like(rows)
    outputs, grads = zip(*used, strict=True)
    found = torch.autograd.grad(outputs, given, grads, is_grads_batched=True, allow_unused=True)
    columns = [
        torch.zeros_like(t) if one is None else one for one, t in zip(found, tangents, strict=True)
    ]  # (R, B, columns) each
    return torch.cat(columns, -1).transpose(0, 1)
