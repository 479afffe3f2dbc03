"""The gated recurrent unit, with fewer gates, with norms, and for values that are sometimes missing."""

from functools import partial

import numpy as np

from tests.cpu.oracles.maths import mixed, normalised, relu, sigmoid, tanh, total


def gru(p, x, h):
    r, z = sigmoid(total(p, "r", x=x, h=h)), sigmoid(total(p, "z", x=x, h=h))
    n = tanh(x @ p["W_xn"] + p["b_n"] + r * (h @ p["W_hn"] + p["b_hn"]))
    return mixed(z, h, n)


def gru_reset_before(p, x, h):
    r, z = sigmoid(total(p, "r", x=x, h=h)), sigmoid(total(p, "z", x=x, h=h))
    return mixed(z, h, tanh(total(p, "n", x=x, h=r * h)))


def gru_layernorm(p, x, h):
    """Here z takes the candidate; both gates are one sum of 2 H columns, z before r, which is normed whole."""

    def norm(a, k):
        return normalised(a) * p[f"a_{k}"] + p[f"b_{k}"]

    gates = norm(h @ np.hstack([p["W_hz"], p["W_hr"]]), 1) + norm(x @ np.hstack([p["W_xz"], p["W_xr"]]), 2)
    z, r = np.split(sigmoid(gates), 2, 1)
    n = tanh(norm(x @ p["W_xn"], 3) + r * norm(h @ p["W_hn"], 4))
    return (1 - z) * h + z * n


def gru_light(p, x, h):
    return mixed(sigmoid(total(p, "z", x=x, h=h)), h, relu(total(p, "n", x=x, h=h)))


def mingru(p, x, h):
    return mixed(sigmoid(total(p, "z", x=x)), total(p, "h", x=x), h)


def mingru_positive(p, x, h):
    """The candidate is g(a) = a + 1/2 for a >= 0, and sigmoid(a) below."""
    a = total(p, "h", x=x)
    return mixed(sigmoid(total(p, "z", x=x)), np.where(a >= 0, a + 0.5, sigmoid(a)), h)


def mgu(p, x, h, gate=("x", "h")):
    """Of its variants the gate sees h and its bias alone (1), h alone (2), or its bias alone (3)."""
    values = {"x": x, "h": h}
    f = sigmoid(total(p, "f", **{name: values[name] for name in gate}))
    return mixed(f, tanh(total(p, "h", x=x, h=f * h)), h)


def gru_d(p, x, h, d):
    """The state d is how far the value last measured was from the mean, so that it begins at the mean with 0.

    With x' last measured: gamma x' + (1 - gamma) mean = mean + gamma (x' - mean).
    """
    value, mask, since = np.split(x, 3, 1)
    gamma_x = np.exp(-np.maximum(0.0, p["w_dv"] * since + p["b_dv"]))
    gamma_h = np.exp(-np.maximum(0.0, since @ p["W_dh"] + p["b_dh"]))
    filled = mask * value + (1 - mask) * (p["mean"] + gamma_x * d)
    h = gamma_h * h
    z = sigmoid(total(p, "z", x=filled, h=h, m=mask))
    r = sigmoid(total(p, "r", x=filled, h=h, m=mask))
    n = tanh(total(p, "n", x=filled, h=r * h, m=mask))
    return (1 - z) * h + z * n, mask * (value - p["mean"]) + (1 - mask) * d


ORACLES = {
    "gru": gru,
    "gru-reset-before": gru_reset_before,
    "gru-layernorm": gru_layernorm,
    "gru-light": gru_light,
    "mingru": mingru,
    "mingru-positive": mingru_positive,
    "mgu": mgu,
    "mgu1": partial(mgu, gate=("h",)),
    "mgu2": partial(mgu, gate=("h",)),
    "mgu3": partial(mgu, gate=()),
    "gru-d": gru_d,
}
