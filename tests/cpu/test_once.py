"""What a step makes of its weights alone is computed in C, once a run, and so are the gradients that come of it."""

import random

import pytest
import torch
from torch import nn

import cellwright as cw
from cellwright.cells import LIBRARY, RNN
from cellwright.kernels.c.elementwise import Expressions, Held, Made, in_words
from cellwright.step import capture
from tests.cpu.layers import results, same, small
from tests.cpu.operations import Operations

MOVES = {"detach", "new_empty", "lift_fresh"}  # what there is for any cell


class Odd(cw.Cell):
    """Weights that go through arithmetic of all shapes before rows meet them."""

    state = ("h",)

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.W = nn.Parameter(torch.randn(hidden_size, hidden_size) / 2)
        self.U = nn.Parameter(torch.randn(hidden_size, input_size) / 2)
        self.a = nn.Parameter(torch.randn(hidden_size))
        self.row = nn.Parameter(torch.randn(1, hidden_size))
        self.pace = nn.Parameter(torch.randn(()))
        self.register_buffer("most", torch.rand(hidden_size) + 0.5)
        self.still = torch.tensor([0.25], dtype=torch.float64)

    def step(self, x, h):
        made = self.W - self.W.T - 0.5 * (self.a * self.row)
        scale = torch.exp(self.a.clamp(-1, 0.7)) + self.pace.sigmoid() / self.most - self.still
        kept = torch.where(self.a > 0, self.a, torch.tanh(self.row.squeeze(0) * 0.3)).view(1, -1)
        return torch.tanh(x @ (self.U * 2 + self.a.unsqueeze(1)).t() + h @ made.t()) * scale + kept


class Softened(RNN):
    """A weight that takes more than operations element by element."""

    def step(self, x, h):
        return torch.tanh(x @ self.W_xh + h @ self.W_hh.softmax(0) + self.b_h.sigmoid())


class Settled(RNN):
    """Operations with settings, on rows and on weights alone."""

    def step(self, x, h):
        made = torch.round(self.b_h + 0.37, decimals=1) + torch.rsub(self.b_h, 1.0, alpha=2) + self.b_h.clamp(max=0.1)
        made = made + torch.sub(self.b_h, 0.3, alpha=3) + nn.functional.softplus(self.b_h, 2, 3)
        rows = torch.round(h * 3, decimals=1) + torch.round(h * 300, decimals=-1) + torch.rsub(h, 1.0, alpha=2)
        rows = rows + torch.div(h * 7, 2, rounding_mode="floor") + nn.functional.gelu(h, approximate="tanh")
        return torch.tanh(x @ self.W_xh + h @ self.W_hh + made + 0.01 * rows)


class Gathered(RNN):
    """A weight of which a reduction meets rows, and its own arithmetic."""

    def step(self, x, h):
        return torch.tanh(x @ self.W_xh + h @ self.W_hh) / (1 + self.b_h.square().sum()) + self.b_h.exp()


def asked(fused, x):
    """The operations of PyTorch in a training step."""
    dy = torch.ones(3, 2, 3, dtype=torch.float64)
    with Operations() as seen:
        fused(x)[0].backward(dy)
    return set(seen.names)


@pytest.mark.parametrize("sizes", [(2, 3), (1, 1), (5, 16), (3, 17), (33, 40)])
@pytest.mark.parametrize("kind", [Odd, Softened, Settled, Gathered])
def test_results_and_gradients_are_those_of_the_equations(kind, sizes):
    inputs, hidden = sizes
    for batch in (1, 3):
        fused, plain, x = small(kind, batch=batch, inputs=inputs, hidden=hidden)
        same(results(fused, x), results(plain, x))
        with torch.no_grad():
            for weight in fused.parameters():
                weight.mul_(1.3)
            same(fused(x), plain(x))
        same(results(fused, x), results(plain, x))


@pytest.mark.parametrize("name", ["leaky-rnn", "fastrnn", "fastgrnn", "mgu3", "unicornn", "antisymmetric"])
def test_cells_of_the_library_leave_pytorch_no_arithmetic(name):
    fused, plain, x = small(LIBRARY[name])
    results(fused, x)
    assert asked(fused, x) <= MOVES
    same(results(fused, x), results(plain, x))


@pytest.mark.parametrize("name", ["fastrnn", "fastgrnn"])
def test_the_gradient_of_a_single_number_is_no_sum_over_every_row(name):
    fused, _, _ = small(LIBRARY[name], hidden=17)
    program = next(fused.choices()).entry.fused.program
    assert not [atom for atom in program.graph.atoms if atom.op == "sum"]


def test_what_takes_more_than_single_elements_is_left_to_pytorch():
    fused, _, x = small(Softened)
    results(fused, x)
    names = asked(fused, x)
    assert {"_softmax", "_softmax_backward_data"} <= names
    assert "sigmoid" not in names


def test_what_forward_left_to_pytorch_backward_takes_as_it_is():
    fused, _, x = small(Softened)
    total = fused(x)[0].square().sum()
    with Operations() as seen:
        total.backward()
    assert "_softmax_backward_data" in seen.names
    assert "_softmax" not in seen.names


def test_weights_that_lie_apart_or_are_of_another_type_are_read_right():
    fused, plain, x = small(Odd)
    cell = fused.first_cell
    cell.a.data = torch.randn(6, dtype=torch.float64)[::2]
    cell.W.data = torch.randn(3, 3, dtype=torch.float64).t()
    same(results(fused, x), results(plain, x))
    cell.most = torch.tensor([1, 2, 3])
    same(results(fused, x), results(plain, x))


def test_gradients_that_nobody_wants_are_not_given():
    fused, plain, x = small(Odd)
    fused.first_cell.a.requires_grad_(False)
    wanted = [weight for weight in fused.parameters() if weight.requires_grad]
    found = [torch.autograd.grad(layer(x)[0].square().sum(), [x, *wanted]) for layer in (fused, plain)]
    same(*found)


def test_gradients_of_two_runs_lie_apart():
    fused, _, x = small(Odd)
    first, second = (torch.autograd.grad(fused(x)[0].sum(), list(fused.parameters())) for _ in range(2))
    for one in first:
        one.zero_()
    assert all(other.abs().sum() > 0 for other in second)


def test_two_runs_at_once_keep_what_each_made():
    fused, plain, x = small(LIBRARY["leaky-rnn"])
    wanted = results(plain, x)
    y, last = fused(x)
    pace = fused.first_cell.b_a
    before, pace.data = pace.data, pace.data + 2  # unseen by autograd
    others = results(fused, x)
    assert not torch.allclose(others[0], wanted[0])
    pace.data = before
    total = y.square().sum() + 2 * last.sum()
    same((y.detach(), *torch.autograd.grad(total, [x, *fused.parameters()])), wanted)


def test_a_stream_keeps_what_its_weights_made():
    fused, plain, x = small(LIBRARY["antisymmetric"])
    stream = fused.stream(2)
    wanted = plain(x)[0]
    with torch.no_grad():
        found = torch.stack([stream(row) for row in x])
    torch.testing.assert_close(found, wanted.detach(), atol=1e-12, rtol=0)


BINARY = [torch.add, torch.sub, torch.mul, torch.maximum, lambda a, b: a / (b * b + 1)]
UNARY = [torch.sigmoid, torch.tanh, torch.relu, torch.square, lambda a: 2 - a, lambda a: torch.exp(-a * a)]
VIEWS = [lambda a: a, lambda a: a.t(), lambda a: a.permute(*reversed(range(a.dim())))]


class Drawn(cw.Cell):
    """A random expression of a square matrix, a vector and a number, which a seed tells."""

    state = ("h",)

    def __init__(self, hidden_size, seed):
        super().__init__(hidden_size, hidden_size)
        self.seed = seed
        self.W = nn.Parameter(torch.randn(hidden_size, hidden_size) / 2)
        self.v = nn.Parameter(torch.randn(hidden_size))
        self.n = nn.Parameter(torch.randn(1))

    def step(self, x, h):
        pick = random.Random(self.seed)
        values = [self.W, self.v, self.n]
        for _ in range(6):
            a, b = pick.choice(VIEWS)(pick.choice(values)), pick.choice(values)
            values.append(pick.choice(UNARY)(a) if pick.random() < 0.5 else pick.choice(BINARY)(a, b))
        return torch.tanh(h @ (self.W + 0.1 * values[-1]) + x @ (0.1 * values[-2] - self.n * self.W.t()) + self.v)


@pytest.mark.parametrize("seed", range(8))
def test_any_expression_of_weights(seed):
    hidden = (1, 3, 17)[seed % 3]
    fused, plain, x = small(lambda inputs, hidden: Drawn(hidden, seed), inputs=hidden, hidden=hidden)
    same(results(fused, x), results(plain, x), atol=1e-10)


def test_an_expression_reads_as_people_write_it():
    tape = capture(LIBRARY["leaky-rnn"](3, 5), torch.float32).tape
    names = {n: entry.leaf for n, entry in enumerate(tape.entries) if isinstance(entry.leaf, str)}
    held = {n: Held(name, "p", (5,), (1,)) for n, name in names.items()}
    found = [Expressions(tape, held.get).of(n) for n in range(len(tape.entries))]
    assert "(1 - sigmoid(b_a))" in [in_words(made) for made in found if isinstance(made, Made)]
