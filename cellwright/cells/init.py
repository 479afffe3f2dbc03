"""How weights are drawn before training: schemes for one weight, and what draws those of a whole cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from cellwright.errors import SettingError

Scheme = Callable[[Tensor, int], Tensor]  # fills a weight of a cell with so many hidden units, in place
M = TypeVar("M", bound=nn.Module)


def uniform(weight: Tensor, hidden_size: int) -> Tensor:
    """Fill with U(-1/sqrt(H), 1/sqrt(H)), as torch.nn.RNN, GRU and LSTM do."""
    bound = hidden_size**-0.5
    return nn.init.uniform_(weight, -bound, bound)


def tutorial(weight: Tensor, hidden_size: int) -> Tensor:
    """Fill matrices from N(0, 0.01^2) and vectors with 0, as Dive into Deep Learning does for cells from scratch."""
    with torch.no_grad():
        return weight.normal_(0.0, 0.01) if weight.dim() > 1 else weight.zero_()


def constant(value: float) -> Scheme:
    """A scheme that fills with one number."""
    return lambda weight, hidden_size: nn.init.constant_(weight, value)


def zeros(weight: Tensor, hidden_size: int) -> Tensor:
    """Fill with 0."""
    return nn.init.zeros_(weight)


def ones(weight: Tensor, hidden_size: int) -> Tensor:
    """Fill with 1."""
    return nn.init.ones_(weight)


def normal(deviation: float) -> Scheme:
    """A scheme that fills from N(0, deviation^2)."""
    return lambda weight, hidden_size: nn.init.normal_(weight, 0.0, deviation)


def between(low: float, high: float) -> Scheme:
    """A scheme that fills from U(low, high)."""
    return lambda weight, hidden_size: nn.init.uniform_(weight, low, high)


def identity(weight: Tensor, hidden_size: int) -> Tensor:
    """Fill a matrix with the identity, so that a state is carried on unchanged at first (Le et al. 2015, IRNN)."""
    return nn.init.eye_(weight)


def orthogonal(weight: Tensor, hidden_size: int) -> Tensor:
    """Fill with an orthogonal matrix, which keeps the length of a state (Saxe et al. 2014); vectors as `uniform`."""
    return nn.init.orthogonal_(weight) if weight.dim() == 2 else uniform(weight, hidden_size)


def skew(weight: Tensor, hidden_size: int) -> Tensor:
    """Fill from N(0, 1/H): what antisymmetric cells (Chang et al. 2019) make W - W^T of."""
    return nn.init.normal_(weight, 0.0, hidden_size**-0.5)


SCHEMES: dict[str, Scheme] = {"uniform": uniform, "tutorial": tutorial, "orthogonal": orthogonal}  # of whole models


def initialise(module: nn.Module, scheme: str, hidden_size: int) -> None:
    """Draw every parameter of `module` anew by one of the SCHEMES.

    >>> layer = nn.Linear(2, 2)
    >>> initialise(layer, "tutorial", hidden_size=2)
    >>> layer.bias.tolist()
    [0.0, 0.0]

    Raises:
        SettingError: the scheme is not in the table.
    """
    if scheme not in SCHEMES:
        raise SettingError(
            f"an initialisation is one of {', '.join(SCHEMES)}", repr(scheme), "write one of those names"
        )
    for parameter in module.parameters():
        SCHEMES[scheme](parameter, hidden_size)


def draw(module: M, scheme: Scheme, role: str, gate: str | None = None) -> M:
    """Draw anew the weights that play a role in the cells of a module.

    >>> from cellwright.cells import LSTM
    >>> cell = draw(LSTM(3, 4), orthogonal, role="recurrent weight", gate="f")
    >>> torch.allclose(cell.W_hf @ cell.W_hf.T, torch.eye(4), atol=1e-6)
    True

    Args:
        module: a cell, a layer, or whatever holds some.
        scheme: fills a weight, given it and the hidden size; see this file.
        role: what the weight does, as `parameter_table` says: "input weight", "recurrent weight", "bias" ...
        gate: of which gate, by its short or its long name (default: of all).

    Returns:
        The module itself.

    Raises:
        SettingError: no weight plays that role.
    """
    found = list(_weights(module, role, gate))
    if not found:
        known = sorted(
            {(name, kind) for part in module.modules() for name, kind in getattr(part, "roles", {}).values()}
        )
        raise SettingError(
            "weights are drawn by their role, and their gate",
            f"role={role!r}, gate={gate!r}; known are {', '.join(f'{kind} of {name}' for name, kind in known)}",
            "write one of those",
        )
    for weight, hidden_size in found:
        scheme(weight, hidden_size)
    return module


def forget_bias(module: M, value: float = 1.0) -> M:
    """Set the bias of every forget gate, so that cells remember at first.

    >>> from cellwright.cells import LSTM
    >>> forget_bias(LSTM(3, 2)).b_f.tolist()
    [1.0, 1.0]

    Source: Gers, Schmidhuber and Cummins (2000); 1 as Jozefowicz et al. (2015) advise.
    """
    return draw(module, constant(value), "bias", "forget gate")


def chrono(module: M, longest: float) -> M:
    """Set the biases of forget gates so that units remember up to `longest` steps, and of input gates against it.

    >>> from cellwright.cells import LSTM
    >>> cell = chrono(LSTM(3, 64), longest=100)
    >>> bool((cell.b_f >= 0).all() and (cell.b_f <= 99).all()), torch.equal(cell.b_i, -cell.b_f)
    (True, True)

    b_f = log(u) with u from U(1, longest - 1), b_i = -b_f.

    Args:
        module: a cell with forget gates, or whatever holds some.
        longest: T_max, the longest dependency that is expected, in steps; more than 2.

    Source: Tallec and Ollivier (2018), arXiv 1804.11188, equation 16.

    Raises:
        SettingError: `longest` is not above 2, or there is no forget gate.
    """
    if not longest > 2:
        raise SettingError("the longest dependency is more than 2 steps", f"longest={longest!r}", "write longest=100")
    draw(module, lambda weight, _: weight.data.uniform_(1.0, longest - 1.0).log_(), "bias", "forget gate")
    for part in module.modules():
        gates = {words: gate for gate, words in getattr(part, "gates", {}).items()}
        if {"forget gate", "input gate"} <= gates.keys():
            forget, enter = (getattr(part, f"b_{gates[words]}") for words in ("forget gate", "input gate"))
            enter.data.copy_(-forget.data)
    return module


def _weights(module: nn.Module, role: str, gate: str | None) -> Iterator[tuple[Tensor, int]]:
    for part in module.modules():
        for name, (short, kind) in getattr(part, "roles", {}).items():
            if kind == role and gate in (None, short, part.gates.get(short)):  # type: ignore[union-attr, operator]
                yield getattr(part, name), part.hidden_size  # type: ignore[misc]
