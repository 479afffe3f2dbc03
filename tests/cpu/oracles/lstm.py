"""Long short-term memory: the plain one, its ancestors and descendants with a cell state."""

from functools import partial

import numpy as np

from tests.cpu.oracles.maths import identity, normalised, sigmoid, softmax, tanh, total


def lstm(p, x, h, c):
    i, f, o = (sigmoid(total(p, gate, x=x, h=h)) for gate in "ifo")
    c = f * c + i * tanh(total(p, "g", x=x, h=h))
    return o * tanh(c), c


def lstm_1997(p, x, h, c):
    """Squashing functions of the paper: g from -2 to 2, h from -1 to 1, both of the logistic function."""
    i, o = sigmoid(total(p, "i", x=x, h=h)), sigmoid(total(p, "o", x=x, h=h))
    c = c + i * (4 * sigmoid(total(p, "g", x=x, h=h)) - 2)
    return o * (2 * sigmoid(c) - 1), c


def peep(p, gate, c):
    return p.get(f"p_{gate}", 0.0) * c


def peephole(p, x, h, c, without=None, coupled=False):
    """The vanilla LSTM of Greff et al. and all its variants that have no gate recurrence."""

    def gate(k, memory):
        return 1.0 if without == k else sigmoid(total(p, k, x=x, h=h) + peep(p, k, memory))

    g = total(p, "g", x=x, h=h)
    i = gate("i", c)
    f = 1 - i if coupled else gate("f", c)
    c = (g if without == "input activation" else tanh(g)) * i + c * f
    return (identity if without == "output activation" else tanh)(c) * gate("o", c), c


def full_gate(p, x, h, c, i, f, o):
    def gate(k, memory):
        return sigmoid(total(p, k, x=x, h=h, i=i, f=f, o=o) + peep(p, k, memory))

    new_i, new_f = gate("i", c), gate("f", c)
    c = tanh(total(p, "g", x=x, h=h)) * new_i + c * new_f
    new_o = gate("o", c)
    return tanh(c) * new_o, c, new_i, new_f, new_o


def lstmp(p, x, h, c):
    i = sigmoid(total(p, "i", x=x, h=h) + peep(p, "i", c))
    f = sigmoid(total(p, "f", x=x, h=h) + peep(p, "f", c))
    c = f * c + i * tanh(total(p, "g", x=x, h=h))
    o = sigmoid(total(p, "o", x=x, h=h) + peep(p, "o", c))
    return (o * tanh(c)) @ p["W_mh"], c


def lstm_layernorm(p, x, h, c):
    """The four sums are one vector of 4 H columns in the paper, which is normed whole."""

    def norm(name, value):
        weights = np.hstack([p[f"W_{name}{gate}"] for gate in "ifog"])
        return normalised(value @ weights) * np.hstack([p[f"a_{name}{gate}"] for gate in "ifog"])

    bias = np.hstack([p[f"b_{gate}"] for gate in "ifog"])
    i, f, o, g = np.split(norm("h", h) + norm("x", x) + bias, 4, 1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(normalised(c) * p["a_c"] + p["b_c"]), c


def multiplicative(p, x, h, c):
    m = (x @ p["W_xm"]) * (h @ p["W_hm"])
    i, f, o = (sigmoid(total(p, gate, x=x, m=m)) for gate in "ifo")
    c = f * c + i * tanh(total(p, "g", x=x, m=m))
    return o * tanh(c), c


def working_memory(p, x, h, c):
    i = sigmoid(total(p, "i", x=x, h=h) + tanh(c @ p["W_ci"]))
    f = sigmoid(total(p, "f", x=x, h=h) + tanh(c @ p["W_cf"]))
    c = f * c + i * tanh(total(p, "g", x=x, h=h))
    o = sigmoid(total(p, "o", x=x, h=h) + tanh(c @ p["W_co"]))
    return o * tanh(c), c


def residual(p, x, h, c):
    i = sigmoid(total(p, "i", x=x, h=h) + peep(p, "i", c))
    f = sigmoid(total(p, "f", x=x, h=h) + peep(p, "f", c))
    c = f * c + i * tanh(total(p, "g", x=x, h=h))
    o = sigmoid(total(p, "o", x=x, h=h, c=c))
    return o * (tanh(c) @ p["W_rh"] + x @ p["W_xh"]), c


def slstm(p, x, h, c, n, m, forget="sigmoid"):
    log_i, f, o = total(p, "i", x=x, h=h), total(p, "f", x=x, h=h), sigmoid(total(p, "o", x=x, h=h))
    log_f = np.log(sigmoid(f)) if forget == "sigmoid" else f
    new_m = np.maximum(log_f + m, log_i)
    i, f = np.exp(log_i - new_m), np.exp(log_f + m - new_m)
    c = f * c + i * tanh(total(p, "z", x=x, h=h))
    n = f * n + i
    return o * (c / n), c, n, new_m


def mc_lstm(p, x, c):
    """Mass is the first column of x. R in the paper stands left of c with columns of sum 1: for rows, rows of sum 1."""
    mass, a = x[:, :1], x[:, 1:]
    held = c.sum(1, keepdims=True)
    share = c / np.where(held == 0, 1.0, held)
    i = softmax(total(p, "i", a=a, c=share))
    o = sigmoid(total(p, "o", a=a, c=share))
    m = c @ softmax(p["B_r"]) + i * mass
    return o * m, (1 - o) * m


ORACLES = {
    "lstm": lstm,
    "lstm-chrono": lstm,
    "lstm-1997": lstm_1997,
    "lstm-peephole": peephole,
    "lstm-nig": partial(peephole, without="i"),
    "lstm-nfg": partial(peephole, without="f"),
    "lstm-nog": partial(peephole, without="o"),
    "lstm-niaf": partial(peephole, without="input activation"),
    "lstm-noaf": partial(peephole, without="output activation"),
    "lstm-cifg": partial(peephole, coupled=True),
    "lstm-fgr": full_gate,
    "lstmp": lstmp,
    "lstm-layernorm": lstm_layernorm,
    "lstm-multiplicative": multiplicative,
    "lstm-wmc": working_memory,
    "lstm-residual": residual,
    "slstm": slstm,
    "mc-lstm": mc_lstm,
}
