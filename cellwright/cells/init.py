"""How weights are drawn before training: one table of schemes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cellwright.errors import SettingError


def uniform(weight: Tensor, hidden_size: int) -> Tensor:
    """Fill with U(-1/sqrt(H), 1/sqrt(H)), as torch.nn.RNN, GRU and LSTM do."""
    bound = hidden_size**-0.5
    return nn.init.uniform_(weight, -bound, bound)


def tutorial(weight: Tensor, hidden_size: int) -> Tensor:
    """Fill matrices from N(0, 0.01^2) and vectors with 0, as Dive into Deep Learning does for cells from scratch."""
    with torch.no_grad():
        return weight.normal_(0.0, 0.01) if weight.dim() > 1 else weight.zero_()


SCHEMES: dict[str, Callable[[Tensor, int], Tensor]] = {"uniform": uniform, "tutorial": tutorial}


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
