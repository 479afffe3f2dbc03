"""Against jax.lax.scan under jit: LSTM and GRU as one writes them for speed, inference and value_and_grad."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

from common import (
    CELLS,
    GATES,
    OUTPUTS,
    SHAPES,
    Row,
    Shape,
    Work,
    agree,
    agree_on_gradients,
    finish,
    gradients,
    inference,
    inputs,
    measure,
    options,
    sample,
    stacked_gradients,
    start,
    training,
)
from machine import peak, versions

import cellwright as cw
from cellwright.kernels.torch_nn import stacked_weights

UNROLLS = (1, 4)  # of scan: the faster one is timed
Layer = Callable[[Any, Any], Any]


def main() -> None:
    given = options(__doc__, shapes=SHAPES[:1], cells=("lstm", "gru"), rounds=9).parse_args()
    # XLA takes as many threads as there are cores allowed when it is first imported, and has no other setting.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.threads])
    start(given)
    given.peak = peak(given.threads)
    rows = [row for size in given.shapes for name in given.cells for row in rows_of(name, size, given)]
    finish(f"jax.lax.scan ({versions('jax', 'jaxlib')})", rows, given)


def rows_of(name: str, size: Shape, given: argparse.Namespace) -> list[Row]:
    """Check and time one cell in one shape."""
    cell = CELLS[name](size.I, size.H)
    ours = cw.Recurrent(cell, backend="c")
    x, dy = inputs(size, given.dx)
    rival = Rival(name, cell, x.detach().numpy(), dy.numpy(), given.dx)
    infer, infer_note = rival.faster(rival.inference)
    works = infer, inference(lambda: ours(x)[0])
    difference = agree(f"outputs of {name} {size}", works[1].call(), copied(infer.call()), OUTPUTS)
    facts = GATES[name], difference, given, versions("jax", "jaxlib"), infer_note
    rows = [measure(("jax.lax.scan", name, "infer"), size, works, *facts)]
    train, train_note = rival.faster(rival.training)
    works = train, training(lambda: ours(x)[0], list(cell.parameters()), dy, x)
    difference = check_gradients(f"{name} {size}", rival, works, cell, x)
    facts = GATES[name], difference, given, versions("jax", "jaxlib"), train_note
    rows.append(measure(("jax.lax.scan", name, "train"), size, works, *facts))
    return rows


def check_gradients(what: str, rival: Rival, works: tuple[Work, Work], cell: cw.Cell, x: Any) -> float:
    """That the gradients of all weights, and of x where it is wanted, are the same."""
    rival.params = rival.take(cell)  # as they are now: those of before have been changed
    (_, found) = works[0].call()
    of_weights, of_x = found if x.requires_grad else (found, None)
    gradients(works[1], cell.parameters())
    pairs = [(own.T, copied(of_weights[key])) for own, key in zip(stacked_gradients(cell), "WUb", strict=True)]
    if "d" in of_weights:
        pairs.append((cell.b_hn.grad, copied(of_weights["d"])))
    if of_x is not None:
        pairs.append((x.grad, copied(of_x)))
    return agree_on_gradients(what, pairs)


def copied(value: Any) -> Any:
    """A JAX array as an array that torch takes."""
    import numpy

    return numpy.array(value)


class Rival:
    """A layer in JAX with the weights of a cell: W (I, G*H), U (H, G*H), b (G*H), for GRU also d (H)."""

    def __init__(self, name: str, cell: cw.Cell, x: Any, dy: Any, dx: bool) -> None:
        import jax  # here: it counts the cores when it is imported

        self.jax, self.dx = jax, dx
        self.write = {"lstm": self.lstm, "gru": self.gru}[name]
        self.x, self.dy = jax.numpy.asarray(x), jax.numpy.asarray(dy)
        self.params = self.take(cell)
        factor = 1 - 2**-23
        self.changed = jax.jit(lambda params: jax.tree.map(lambda one: one * factor, params))

    def take(self, cell: cw.Cell) -> dict[str, Any]:
        """The weights of a cell."""
        form = cell.torch_form()
        assert form is not None
        weights = [weight.detach().T.numpy().copy() for weight in stacked_weights(cell, form)[:3]]
        params = dict(zip("WUb", map(self.jax.numpy.asarray, weights), strict=True))
        if hasattr(cell, "b_hn"):
            params["d"] = self.jax.numpy.asarray(cell.b_hn.detach().numpy().copy())
        return params

    def lstm(self, unroll: int) -> Layer:
        """The inputs' products of all steps at once, then a scan with one product a step."""
        jax, units = self.jax, self.params["U"].shape[0]

        def layer(params: Any, x: Any) -> Any:
            def step(state: Any, a: Any) -> Any:
                h, c = state
                a = a + h @ params["U"]
                i, f, g, o = (a[:, k * units : (k + 1) * units] for k in range(4))
                c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jax.numpy.tanh(g)
                h = jax.nn.sigmoid(o) * jax.numpy.tanh(c)
                return (h, c), h

            zeros = jax.numpy.zeros((x.shape[1], units), x.dtype)
            return jax.lax.scan(step, (zeros, zeros), x @ params["W"] + params["b"], unroll=unroll)[1]

        return layer

    def gru(self, unroll: int) -> Layer:
        """The form of torch.nn: the reset gate after the product; inputs' products at once, one product a step."""
        jax, units = self.jax, self.params["U"].shape[0]

        def layer(params: Any, x: Any) -> Any:
            def step(h: Any, a: Any) -> Any:
                p = h @ params["U"]
                r = jax.nn.sigmoid(a[:, :units] + p[:, :units])
                z = jax.nn.sigmoid(a[:, units : 2 * units] + p[:, units : 2 * units])
                n = jax.numpy.tanh(a[:, 2 * units :] + r * (p[:, 2 * units :] + params["d"]))
                h = z * h + (1 - z) * n
                return h, h

            zeros = jax.numpy.zeros((x.shape[1], units), x.dtype)
            return jax.lax.scan(step, zeros, x @ params["W"] + params["b"], unroll=unroll)[1]

        return layer

    def inference(self, unroll: int) -> Work:
        """The compiled forward pass."""
        run = self.jax.jit(self.write(unroll))
        return Work(lambda: self.jax.block_until_ready(run(self.params, self.x)))

    def training(self, unroll: int) -> Work:
        """The compiled loss and gradients; all weights are new ones in between."""
        layer = self.write(unroll)
        run = self.jax.jit(
            self.jax.value_and_grad(
                lambda params, x, dy: (layer(params, x) * dy).sum(), argnums=(0, 1) if self.dx else 0
            )
        )

        def change() -> None:
            self.params = self.jax.block_until_ready(self.changed(self.params))

        return Work(lambda: self.jax.block_until_ready(run(self.params, self.x, self.dy)), change)

    def faster(self, make: Callable[[int], Work]) -> tuple[Work, str]:
        """The faster of the ways to unroll the scan, and what is to be said of it."""
        tried = []
        for unroll in UNROLLS:
            work = make(unroll)
            begin = time.perf_counter()
            work.call()
            compiled = time.perf_counter() - begin
            tried.append((min(sample(work, 3) for _ in range(3)), unroll, compiled, work))
        _, unroll, compiled, work = min(tried, key=lambda one: one[:2])
        return work, f"unroll={unroll}, compiled in {compiled:.1f} s"


if __name__ == "__main__":
    main()
