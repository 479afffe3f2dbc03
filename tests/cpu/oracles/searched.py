"""Cells that a search found: the three mutants, and the one of neural architecture search."""

from tests.cpu.oracles.maths import mixed, relu, sigmoid, tanh, total


def mut1(p, x, h):
    z = sigmoid(x @ p["W_xz"] + p["b_z"])
    r = sigmoid(total(p, "r", x=x, h=h))
    return mixed(z, tanh((r * h) @ p["W_hh"] + tanh(x @ p["P"]) + p["b_h"]), h)


def mut2(p, x, h):
    z = sigmoid(total(p, "z", x=x, h=h))
    r = sigmoid(x @ p["P"] + h @ p["W_hr"] + p["b_r"])
    return mixed(z, tanh(total(p, "h", x=x, h=r * h)), h)


def mut3(p, x, h):
    z = sigmoid(total(p, "z", x=x, h=tanh(h)))
    r = sigmoid(total(p, "r", x=x, h=h))
    return mixed(z, tanh(total(p, "h", x=x, h=r * h)), h)


def nas(p, x, h, c):
    """TensorFlow's NASCell: eight leaves, joined in pairs twice and then once; biases belong to the part of h."""
    now = [x @ p[f"W_x{k}"] for k in range(8)]
    past = [h @ p[f"W_h{k}"] + p[f"b_{k}"] for k in range(8)]
    leaves = [
        sigmoid(now[0] + past[0]),
        relu(now[1] + past[1]),
        sigmoid(now[2] + past[2]),
        relu(now[3] * past[3]),
        tanh(now[4] + past[4]),
        sigmoid(now[5] + past[5]),
        tanh(now[6] + past[6]),
        sigmoid(now[7] + past[7]),
    ]
    first = tanh(tanh(leaves[0] * leaves[1]) + c)
    second = tanh(leaves[2] + leaves[3])
    third = tanh(leaves[4] * leaves[5])
    fourth = sigmoid(leaves[6] + leaves[7])
    c = first * second
    return tanh(c * tanh(third + fourth)), c


ORACLES = {"mut1": mut1, "mut2": mut2, "mut3": mut3, "nas": nas}
