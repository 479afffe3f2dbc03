"""Networks with no gates or few, and those that keep gradients by the form of their recurrent weight."""

from functools import partial

import numpy as np

from tests.cpu.oracles.maths import hard_sigmoid, mixed, relu, sigmoid, softplus, tanh, total


def elman(p, x, h, phi=tanh):
    return phi(total(p, "h", x=x, h=h))


def indrnn(p, x, h, phi=relu):
    return phi(x @ p["W_xh"] + p["u"] * h + p["b_h"])


def jordan(p, x, y):
    hidden = tanh(x @ p["W_xh"] + y @ p["W_yh"] + p["b_h"])
    return tanh(hidden @ p["W_hy"] + p["b_y"])


def leaky(p, x, h):
    pace = sigmoid(p["b_a"])
    return h + pace * (elman(p, x, h) - h)


def scrn(p, x, h, s, alpha=0.95):
    s = (1 - alpha) * (x @ p["W_xs"]) + alpha * s
    h = sigmoid(s @ p["W_sh"] + x @ p["W_xh"] + h @ p["W_hh"])
    return np.concatenate([h, s], 1), h, s


def fastrnn(p, x, h):
    new = tanh(total(p, "h", x=x, h=h))
    return sigmoid(p["alpha"]) * new + sigmoid(p["beta"]) * h


def fastgrnn(p, x, h):
    shared = x @ p["W_xh"] + h @ p["W_hh"]
    z = sigmoid(shared + p["b_z"])
    new = tanh(shared + p["b_h"])
    return (sigmoid(p["zeta"]) * (1 - z) + sigmoid(p["nu"])) * new + z * h


def antisymmetric(p, x, h, epsilon=0.01, gamma=0.01, gated=False):
    """W - W^T - gamma I times the column h, which for rows is h times the transpose of that."""
    W = p["W_hh"].T  # as the paper multiplies it, from the left
    recurrent = h @ (W - W.T - gamma * np.eye(len(W))).T
    z = sigmoid(recurrent + x @ p["W_xz"] + p["b_z"]) if gated else 1.0
    return h + epsilon * z * tanh(recurrent + x @ p["W_xh"] + p["b_h"])


def minimal_rnn(p, x, h):
    z = tanh(x @ p["W_xz"] + p["b_z"])
    u = sigmoid(h @ p["W_hu"] + z @ p["W_zu"] + p["b_u"])
    return mixed(u, h, z)


def ugrnn(p, x, h):
    c = tanh(total(p, "c", x=x, h=h))
    return mixed(sigmoid(total(p, "g", x=x, h=h)), h, c)


def intersection(p, x, h):
    u = relu(total(p, "u", x=x, h=h))
    g = tanh(total(p, "g", x=x, h=h))
    y = mixed(sigmoid(total(p, "p", x=x, h=h)), x @ p["P"], u)
    return y, mixed(sigmoid(total(p, "q", x=x, h=h)), h, g)


def recurrent_highway(p, x, h):
    for layer in range(len(p["W_hh"])):
        first = 1.0 if layer == 0 else 0.0
        new = tanh(first * (x @ p["W_xh"]) + h @ p["W_hh"][layer] + p["b_h"][layer])
        t = sigmoid(first * (x @ p["W_xt"]) + h @ p["W_ht"][layer] + p["b_t"][layer])
        h = new * t + h * (1 - t)
    return h


def sgu(p, x, h, deep=False):
    """x_g, z_g, z_out and z_t of the paper; the deep one has a layer more before z_out."""
    x_g = x @ p["W_xa"] + p["b_a"]
    z_g = tanh((x_g * h) @ p["W_ha"])
    z_out = sigmoid((z_g * h) @ p["W_hg"]) if deep else softplus(z_g * h)
    return mixed(hard_sigmoid(total(p, "z", x=x, h=h)), z_out, h)


ORACLES = {
    "rnn": elman,
    "rnn-relu": partial(elman, phi=relu),
    "irnn": partial(elman, phi=relu),
    "indrnn": indrnn,
    "jordan": jordan,
    "leaky-rnn": leaky,
    "scrn": scrn,
    "fastrnn": fastrnn,
    "fastgrnn": fastgrnn,
    "antisymmetric": antisymmetric,
    "antisymmetric-gated": partial(antisymmetric, gated=True),
    "minimal-rnn": minimal_rnn,
    "ugrnn": ugrnn,
    "intersection-rnn": intersection,
    "recurrent-highway": recurrent_highway,
    "sgu": sgu,
    "dsgu": partial(sgu, deep=True),
}
