"""Cells that step along a differential equation: two states, y and z, and a step in time."""

from tests.cpu.oracles.maths import sigmoid, tanh, total


def cornn(p, x, y, z, dt=0.042, gamma=2.7, epsilon=4.7):
    force = tanh(y @ p["W_yz"] + z @ p["W_zz"] + x @ p["W_xz"] + p["b_z"])
    z = z + dt * (force - gamma * y - epsilon * z)
    return y + dt * z, z


def unicornn(p, x, y, z, dt=0.19, alpha=30.65):
    step = dt * sigmoid(p["c"])  # 1/2 + tanh(c/2)/2 in the paper
    z = z - step * (tanh(p["w"] * y + x @ p["W_xz"] + p["b_z"]) + alpha * y)
    return y + step * z, z


def lem(p, x, y, z, dt=1.0):
    step_z = dt * sigmoid(total(p, "1", x=x, y=y))
    step_y = dt * sigmoid(total(p, "2", x=x, y=y))
    z = (1 - step_z) * z + step_z * tanh(total(p, "z", x=x, y=y))
    return (1 - step_y) * y + step_y * tanh(total(p, "y", x=x, z=z)), z


ORACLES = {"cornn": cornn, "unicornn": unicornn, "lem": lem}
