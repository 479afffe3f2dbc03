"""What the formulas of the papers are made of, in NumPy."""

import numpy as np

tanh = np.tanh


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def relu(a):
    return np.where(a > 0, a, 0.0)


def identity(a):
    return a


def softplus(a):
    return np.log(1 + np.exp(a))


def hard_sigmoid(a):
    """Theano's: a line of slope 0.2 through (0, 1/2), cut off at 0 and 1."""
    return np.minimum(np.maximum(0.2 * a + 0.5, 0.0), 1.0)


def softmax(a):
    """Along the last axis."""
    powers = np.exp(a)
    return powers / powers.sum(-1, keepdims=True)


def normalised(a, epsilon=1e-5):
    """Each row less its mean, over its standard deviation."""
    centred = a - a.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)


def mixed(share, one, other):
    """So much of the one, the rest of the other."""
    return share * one + (1 - share) * other


def total(p, gate, /, **seen):
    """What a gate sums: each value it sees times its weight, W_{name}{gate}, and its bias if it has one."""
    return sum(value @ p[f"W_{name}{gate}"] for name, value in seen.items()) + p.get(f"b_{gate}", 0.0)
