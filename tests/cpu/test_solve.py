"""Training on memory tasks: what is learned, what is the same again, and how it ends."""

import math

import pytest
import torch

from cellwright.cells import LSTM, RNN
from cellwright.probe import Learning, solve, summary, trials

SMALL = Learning(steps=400, hidden_size=12, learning_rate=0.02, backend="torch")


@pytest.fixture(scope="module")
def learned():
    return solve("lstm", "parity", 3, seed=1, learning=SMALL)


def test_a_short_task_is_learned_and_learning_ends_there(learned):
    assert learned.solved
    assert 63 <= learned.steps < 400  # 63 updates of 32 are the 2000 sequences in a row
    assert learned.right == 1.0
    assert learned.loss < 0.5 * math.log(2)
    assert learned.parameters == 4 * 12 * (1 + 12 + 1) + 12 + 1
    steps, losses, rights = zip(*learned.curve, strict=True)
    assert list(steps) == sorted(set(steps))
    assert len(steps) <= 101
    assert losses[0] > losses[-1] == learned.loss
    assert rights[0] < rights[-1] == 1.0


def test_the_same_seed_gives_the_same_training_whatever_else_was_drawn(learned):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again = solve(LSTM, "parity", 3, seed=1, learning=SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    assert (again.steps, again.loss, again.curve) == (learned.steps, learned.loss, learned.curve)
    assert again.cell == "LSTM"
    short = Learning(steps=3, hidden_size=12, backend="torch")
    assert solve("lstm", "parity", 3, 1, short).loss != solve("lstm", "parity", 3, 2, short).loss


@pytest.mark.parametrize(("bias", "low", "high"), [(2.5, 2.5, 2.5), ("chrono", 0.0, math.log(19)), (None, -0.36, 0.36)])
def test_forget_gates_begin_as_asked_for_where_there_are_any(bias, low, high):
    found = []

    def make(inputs, hidden):
        found.append(LSTM(inputs, hidden))
        return found[0]

    solve(make, "copy", 20, learning=Learning(steps=1, hidden_size=8, learning_rate=1e-12, forget_bias=bias))
    biases = found[0].b_f.detach()
    assert biases.min() >= low - 1e-6
    assert biases.max() <= high + 1e-6
    assert (len(set(biases.tolist())) == 1) == isinstance(bias, float)
    solve(RNN, "copy", 20, learning=Learning(steps=1, hidden_size=8, forget_bias=bias, backend="torch"))


def test_a_loss_that_is_no_number_ends_a_training():
    trial = solve("rnn-relu", "adding", 20, learning=Learning(steps=50, learning_rate=1e30, backend="torch"))
    assert (trial.end, trial.solved) == ("diverged", False)
    assert trial.steps < 50
    assert math.isfinite(trial.loss)


def test_trials_are_summed_up_by_cell_and_length():
    told = []
    learning = Learning(steps=2, hidden_size=4, backend="torch")
    found = list(trials(["rnn", "lstm"], "adding", [4, 8], [0, 1, 2], learning, lambda *now: told.append(now)))
    assert [(t.length, t.cell, t.seed) for t in found] == [
        (length, cell, seed) for length in (4, 8) for cell in ("rnn", "lstm") for seed in (0, 1, 2)
    ]
    assert [now[:4] for now in told[:3]] == [("rnn", 4, 0, 1), ("rnn", 4, 0, 2), ("rnn", 4, 1, 1)]
    rows = summary(found)
    assert [(row["cell"], row["length"]) for row in rows] == [("rnn", 4), ("lstm", 4), ("rnn", 8), ("lstm", 8)]
    assert rows[0]["loss"] == sorted(t.loss for t in found[:3])[1]
    assert rows[0]["seconds"] == pytest.approx(sum(t.seconds for t in found[:3]))
    assert (rows[0]["seeds"], rows[0]["solved"], rows[0]["steps"]) == (3, 0, None)


def test_shares_and_medians_count_those_that_solved_it(learned):
    failed = solve("lstm", "parity", 3, seed=1, learning=Learning(steps=2, hidden_size=12, backend="torch"))
    [row] = summary([learned, failed, failed])
    assert row["solved"] == pytest.approx(1 / 3)
    assert row["steps"] == learned.steps
    assert row["loss"] == failed.loss
