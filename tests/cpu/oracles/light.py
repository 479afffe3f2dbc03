"""Cells that leave most of the LSTM out: gates of x alone, states that are moving means, units by themselves."""

from tests.cpu.oracles.maths import mixed, sigmoid, tanh, total


def ran(p, x, h, c, squash=tanh):
    i, f = sigmoid(total(p, "i", x=x, h=h)), sigmoid(total(p, "f", x=x, h=h))
    c = i * (x @ p["W_xg"]) + f * c
    return squash(c), c


def atr(p, x, h):
    now, past = x @ p["W_xp"], h @ p["W_hq"]
    return sigmoid(now + past) * now + sigmoid(now - past) * h


def cfn(p, x, h):
    theta, eta = sigmoid(total(p, "f", x=x, h=h)), sigmoid(total(p, "i", x=x, h=h))
    return theta * tanh(h) + eta * tanh(x @ p["W_xg"])


def brc(p, x, h):
    a = 1 + tanh(x @ p["W_xa"] + p["w_a"] * h + p["b_a"])
    c = sigmoid(x @ p["W_xc"] + p["w_c"] * h + p["b_c"])
    return mixed(c, h, tanh(x @ p["W_xh"] + a * h))


def nbrc(p, x, h):
    a = 1 + tanh(total(p, "a", x=x, h=h))
    return mixed(sigmoid(total(p, "c", x=x, h=h)), h, tanh(x @ p["W_xh"] + a * h))


def sru(p, x, c, alpha=1.0):
    """Both gates see the state of the step before."""
    f = sigmoid(x @ p["W_xf"] + p["v_f"] * c + p["b_f"])
    r = sigmoid(x @ p["W_xr"] + p["v_r"] * c + p["b_r"])
    c = f * c + (1 - f) * (x @ p["W_xc"])
    return r * c + (1 - r) * (x @ p["P"]) * alpha, c


def qrnn_f(p, x, c):
    return mixed(sigmoid(total(p, "f", x=x)), c, tanh(total(p, "z", x=x)))


def qrnn_fo(p, x, c):
    c = mixed(sigmoid(total(p, "f", x=x)), c, tanh(total(p, "z", x=x)))
    return sigmoid(total(p, "o", x=x)) * c, c


def qrnn_ifo(p, x, c):
    i, f, o = (sigmoid(total(p, gate, x=x)) for gate in "ifo")
    c = f * c + i * tanh(total(p, "z", x=x))
    return o * c, c


def janet(p, x, h, beta=1.0):
    s = total(p, "f", x=x, h=h)
    return sigmoid(s) * h + (1 - sigmoid(s - beta)) * tanh(total(p, "g", x=x, h=h))


def star(p, x, h):
    k, z = sigmoid(total(p, "k", x=x, h=h)), tanh(total(p, "z", x=x))
    return tanh((1 - k) * h + k * z)


def minlstm(p, x, h):
    f, i = sigmoid(total(p, "f", x=x)), sigmoid(total(p, "i", x=x))
    return f / (f + i) * h + i / (f + i) * total(p, "g", x=x)


ORACLES = {
    "ran": ran,
    "atr": atr,
    "cfn": cfn,
    "brc": brc,
    "nbrc": nbrc,
    "sru": sru,
    "qrnn": qrnn_fo,
    "qrnn-f": qrnn_f,
    "qrnn-ifo": qrnn_ifo,
    "janet": janet,
    "star": star,
    "minlstm": minlstm,
}
