"""The bound (gamma_theta gamma_phi)^k on the gradient of a simple recurrent network."""

from __future__ import annotations

import math

from torch import Tensor

from cellwright.cells import RNN
from cellwright.cells.stacked import StackedReluRNN, StackedRNN
from cellwright.layers.sequences import Part
from cellwright.probe.norms import spectral_norm

# By cell, its recurrent weight and the largest derivative of its phi: tanh and relu both have 1.
BOUNDED: dict[type, tuple[str, float]] = {
    RNN: ("W_hh", 1.0),
    StackedRNN: ("weight_hh", 1.0),
    StackedReluRNN: ("weight_hh", 1.0),
}


def log_bound(part: Part) -> float | None:
    """log(gamma_theta gamma_phi) of a cell h = phi(x W + h U + b); None for other cells.

    gamma_theta is the spectral norm of U, gamma_phi the largest slope of phi: |d h_T / d h_{T-k}| is at most
    (gamma_theta gamma_phi)^k, as each factor's norm is at most gamma_theta gamma_phi.

    Source: Pascanu, Mikolov and Bengio (2013), arXiv 1211.5063, section 2.1.
    """
    if type(part.cell) not in BOUNDED:
        return None
    name, slope = BOUNDED[type(part.cell)]
    weight: Tensor = part.weights[name].detach()
    return math.log(float(spectral_norm(weight.double())) * slope)
