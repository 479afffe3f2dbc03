"""The strongly typed cells, whose gates see the last two inputs and no state."""

from tests.cpu.oracles.maths import mixed, sigmoid, tanh, total


def t_rnn(p, x, h):
    return mixed(sigmoid(total(p, "f", x=x)), h, x @ p["W_xz"])


def t_gru(p, x, h, before):
    z = total(p, "z", x=x, p=before)
    f = sigmoid(total(p, "f", x=x, p=before))
    o = tanh(total(p, "o", x=x, p=before))
    return f * h + z * o, x


def t_lstm(p, x, c, before):
    z = total(p, "z", x=x, p=before)
    f = sigmoid(total(p, "f", x=x, p=before))
    o = tanh(total(p, "o", x=x, p=before))
    c = mixed(f, c, z)
    return c * o, c, x


ORACLES = {"t-rnn": t_rnn, "t-gru": t_gru, "t-lstm": t_lstm}
