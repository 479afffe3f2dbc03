"""Where threads that share columns need not wait for each other between one step back and the next."""

import pytest
import torch

from cellwright.cells import LIBRARY, Cell
from cellwright.kernels.c.address import Addresses
from cellwright.kernels.c.columns import Columns
from cellwright.kernels.c.render import render
from cellwright.kernels.c.waits import goes_ahead, waits
from tests.pure.test_plan import planned


class Echo(Cell):
    """Recurrent weights that are not trained: the gradient that is multiplied by them lies in scratch of every step."""

    state = ("h",)

    def __init__(self, input_size: int, hidden_size: int, trained: bool) -> None:
        super().__init__(input_size, hidden_size)
        self.b = torch.nn.Parameter(torch.zeros(hidden_size))
        R = torch.eye(hidden_size)
        self.R = torch.nn.Parameter(R)
        if not trained:
            del self.R
            self.register_buffer("R", R)

    def step(self, x, h):
        return torch.tanh(x[:, :1] + h @ self.R + self.b)


class Spread(Cell):
    """The step back begins with the sum of a row that the one after it ended with."""

    state = ("h",)

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.b = torch.nn.Parameter(torch.zeros(hidden_size))

    def step(self, x, h):
        return torch.tanh(x[:, :1] * h.flip(-1) + torch.softmax(h, -1) + self.b)


def asked(cell: Cell, question=waits) -> bool:
    program = planned(cell, needs_x=False)
    return question(Columns(program, Addresses(program)))


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm", "gru-reset-before", "lstm-peephole", "lstm-layernorm", "scrn"])
def test_a_step_back_that_begins_with_columns_of_its_own_begins_at_once(name):
    assert not asked(LIBRARY[name](3, 5))


@pytest.mark.parametrize("cell", [Echo(3, 5, trained=False), Spread(3, 5), LIBRARY["indrnn"](3, 5)])
def test_one_that_overwrites_what_others_still_read_waits(cell):
    """By turns: scratch that a product reads, a row's sum, a single pass."""
    assert asked(cell)


def test_what_all_steps_keep_apart_may_be_read_meanwhile():
    assert not asked(Echo(3, 5, trained=True))


@pytest.mark.parametrize(("trained", "ends"), [(True, 1), (False, 0)])
def test_the_source_waits_then_only_where_rows_come_or_go(trained, ends):
    text = render(planned(Echo(3, 5, trained), needs_x=False), "echo").text
    assert text.count("if (c->columns && !goes_on_with_columns(c, t, team)) barrier(c->barrier, team);") == ends
    assert text.count("backward_1(a, t, r, keep); if (c->columns) barrier(c->barrier, team);") == 1 - ends


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm", "gru-reset-before", "lstm-peephole", "jordan"])
def test_the_first_pass_of_a_step_back_may_be_done_by_the_one_after_it(name):
    assert asked(LIBRARY[name](3, 5), goes_ahead)


@pytest.mark.parametrize("cell", [LIBRARY["lstm-layernorm"](3, 5), Echo(3, 5, trained=False), LIBRARY["indrnn"](3, 5)])
def test_not_where_it_sums_rows_or_must_wait_or_is_the_last_too(cell):
    assert not asked(cell, goes_ahead)
