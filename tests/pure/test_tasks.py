"""Memory tasks: targets worked out once more from the sequences, criteria at their borders, losses without memory."""

import dataclasses
import math
import re
from collections import Counter

import pytest
import torch

from cellwright.errors import SettingError
from cellwright.probe import TASKS, Learning, find_task, solve
from cellwright.probe.reber import LETTERS, followers, strings

REST = "T*V(PXT*V)*(V|PS)"
INNER = f"B(TS*X(S|X{REST})|P{REST})E"
EMBEDDED = re.compile(f"B(T{INNER}T|P{INNER}P)E")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(task, length, rows=500, seed=0):
    return TASKS[task].draw(length, rows, seeded(seed))


def words(symbols):
    return ["".join(LETTERS[symbol] for symbol in row) for row in symbols.T.tolist()]


@pytest.mark.parametrize("name", TASKS)
def test_batches_follow_from_their_seed_and_have_the_shapes_of_their_row(name):
    task = TASKS[name]
    for length in (task.shortest, 23):
        x, target = task.draw(length, 5, seeded())
        again, other = task.draw(length, 5, seeded()), task.draw(length, 5, seeded(1))
        assert torch.equal(x, again[0])
        assert torch.equal(target, again[1])
        assert x.shape != other[0].shape or not torch.equal(x, other[0])
        assert x.shape[1:] == (5, task.inputs)
        y = torch.randn(5, task.outputs) if task.at_end else torch.randn(len(x), 5, task.outputs)
        assert task.loss(y, target).shape == ()
        assert task.right(y, target).shape == (5,)
        assert task.right(y, target).dtype == torch.bool


def test_adding_asks_for_the_sum_of_two_marked_numbers_one_in_each_half():
    x, target = drawn("adding", 11)
    for row, total in zip(x.unbind(1), target.flatten().tolist(), strict=True):
        places = [t for t in range(11) if row[t, 1] == 1]
        assert len(places) == 2
        assert row[:, 1].sum() == 2
        assert places[0] < 5 <= places[1]
        assert total == pytest.approx(sum(row[t, 0].item() for t in places))
    assert x[..., 0].min() >= 0
    assert x[..., 0].max() <= 1
    assert set(x[..., 1].nonzero()[:, 0].tolist()) == set(range(11))


def test_copy_wants_its_ten_symbols_after_the_delimiter():
    x, target = drawn("copy", 4)
    given = x.argmax(2)  # (24, B)
    assert len(given) == 24
    assert (x.sum(2) == 1).all()
    for row, wanted in zip(given.T.tolist(), target.T.tolist(), strict=True):
        assert row[10:] == [8, 8, 8, 9] + [8] * 10
        assert wanted == [8] * 14 + row[:10]
    assert set(given[:10].unique().tolist()) == set(range(8))


def test_order_asks_which_letters_came_in_which_order():
    lengths = set()
    for seed in range(60):
        x, target = drawn("order", 100, 20, seed)
        lengths.add(len(x))
        for row, wanted in zip(x.argmax(2).T.tolist(), target.tolist(), strict=True):
            text = "".join("abcdXYEB"[symbol] for symbol in row)
            assert re.fullmatch("E[abcdXY]*B", text)
            (first, a), (second, b) = [(t, s) for t, s in enumerate(text) if s in "XY"]
            assert 10 <= first <= 20
            assert 50 <= second <= 60
            assert wanted == ["XX", "XY", "YX", "YY"].index(a + b)
    assert lengths <= set(range(100, 111))
    assert {100, 110} <= lengths


def test_parity_counts_ones_step_by_step():
    x, target = drawn("parity", 20)
    assert 20 <= len(x) <= 22
    for row, wanted in zip(x[..., 0].T.tolist(), target.T.tolist(), strict=True):
        odd = 0
        for bit, answer in zip(row, wanted, strict=True):
            odd ^= {-1.0: 0, 1.0: 1}[bit]
            assert answer == odd


@pytest.mark.parametrize("length", [9, 10, 13, 40])
def test_strings_are_of_the_grammar_and_as_long_as_asked_for(length):
    for word in words(strings(length, 300, seeded())):
        assert len(word) == length
        assert EMBEDDED.fullmatch(word), word


def test_a_net_is_asked_for_the_next_symbol_of_a_string():
    x, target = drawn("reber", 20)
    assert 19 <= len(x) <= 21
    for seen, wanted in zip(words(x.argmax(2)), words(target), strict=True):
        assert EMBEDDED.fullmatch(seen[0] + wanted)
        assert seen[1:] == wanted[:-1]


def test_strings_of_one_length_are_equally_likely():
    # Every string passes as many forks as it has letters between the inner B and E, and an outer one.
    counts = Counter(words(strings(13, 20_000, seeded())))
    mean = 20_000 / len(counts)
    assert len(counts) > 10
    assert all(abs(count - mean) < 5 * math.sqrt(mean) for count in counts.values())


def test_followers_are_what_was_seen_to_follow():
    seen = {}
    for length in range(9, 19):
        for word in words(strings(length, 400, seeded())):
            for place in range(1, 8):
                seen.setdefault(word[:place], set()).add(word[place])
    for prefix, found in seen.items():
        ids = torch.tensor([[LETTERS.index(symbol)] for symbol in prefix])
        legal = followers(ids)[-1, 0]
        assert {LETTERS[place] for place in legal.nonzero().flatten().tolist()} == found, prefix


def test_a_sum_is_right_within_four_hundredths_of_its_range():
    y, target = torch.tensor([[1.0799], [1.0801], [0.9201], [0.9199]]), torch.ones(4, 1)
    assert TASKS["adding"].right(y, target).tolist() == [True, False, True, False]


def test_a_class_is_right_when_all_outputs_are_within_three_tenths():
    chances = torch.tensor([[0.701, 0.299, 0, 0], [0.699, 0.301, 0, 0], [0.1, 0.1, 0.1, 0.7001]])
    right = TASKS["order"].right(chances.log(), torch.tensor([0, 0, 3]))
    assert right.tolist() == [True, False, True]
    assert TASKS["order"].right(chances.log(), torch.tensor([1, 1, 0])).tolist() == [False] * 3


@pytest.mark.parametrize("name", ["copy", "parity"])
def test_one_wrong_step_makes_a_sequence_wrong(name):
    _, target = drawn(name, 5, 3)
    y = torch.nn.functional.one_hot(target, 9).float() if name == "copy" else (2 * target - 1).unsqueeze(2)
    assert TASKS[name].right(y, target).tolist() == [True] * 3
    y[-1, 1] = -y[-1, 1]
    assert TASKS[name].right(y, target).tolist() == [True, False, True]


def scores(word):
    return torch.nn.functional.one_hot(torch.tensor([[LETTERS.index(s)] for s in word]), 7).float()


def test_a_string_is_right_when_each_guess_is_allowed_and_the_outer_letter_is_the_first_again():
    target = torch.tensor([[LETTERS.index(s)] for s in "TBTXSETE"])  # after B
    right = TASKS["reber"].right
    assert right(scores("TBTXSETE"), target).all()
    assert right(scores("PBPSXETE"), target).all(), "all may follow, though others did"
    assert not right(scores("TBTXSEPE"), target).any(), "the letter to remember"
    assert not right(scores("TBTVSETE"), target).any()


def test_baselines_are_the_losses_of_what_remembers_nothing():
    _, target = drawn("adding", 10, 200_000)
    assert TASKS["adding"].loss(torch.ones_like(target), target).item() == pytest.approx(
        TASKS["adding"].baseline(10), rel=0.02
    )
    _, target = drawn("copy", 30)
    y = torch.full((*target.shape, 9), -1e9)
    y[:-10, :, 8], y[-10:, :, :8] = 0, 0
    assert TASKS["copy"].loss(y, target).item() == pytest.approx(TASKS["copy"].baseline(30), rel=1e-5)
    assert TASKS["copy"].baseline(100) == pytest.approx(10 * math.log(8) / 120)
    for name in ("order", "parity"):
        task = TASKS[name]
        x, target = drawn(name, 20)
        y = torch.zeros(*(x.shape[1:2] if task.at_end else x.shape[:2]), task.outputs)
        assert task.loss(y, target).item() == pytest.approx(task.baseline(20), rel=1e-5)


def test_the_baseline_of_strings_knows_all_but_the_letter():
    symbols = strings(9, 1000, seeded(3))
    y = followers(symbols[:-1]).float().log().clamp(min=-1e9)
    y[-2, :, [LETTERS.index("T"), LETTERS.index("P")]] = 0.0  # before the outer letter
    assert TASKS["reber"].loss(y, symbols[1:]).item() == pytest.approx(TASKS["reber"].baseline(9), rel=1e-4)


def fake(monkeypatch, wrong=()):
    """A task that is always right but at some updates, counted from 1."""
    calls = []

    def right(y, target):
        calls.append(1)
        verdict = torch.ones(y.shape[1], dtype=torch.bool)
        verdict[-1] = len(calls) not in wrong
        return verdict

    monkeypatch.setitem(TASKS, "fake", dataclasses.replace(TASKS["parity"], right=right))


@pytest.mark.parametrize(("wrong", "steps"), [((), 40), ((1,), 41), ((40,), 80), ((3, 20), 60)])
def test_it_takes_two_thousand_sequences_in_a_row(wrong, steps, monkeypatch):
    fake(monkeypatch, wrong)
    told = []
    learning = Learning(steps=200, hidden_size=1, batch_size=50, backend="eager")
    trial = solve("rnn", "fake", 1, learning=learning, watch=lambda *now: told.append(now))
    assert (trial.end, trial.solved, trial.steps, trial.right) == ("solved", True, steps, 1.0)
    assert [step for step, _, _ in told] == list(range(1, steps + 1))
    assert trial.curve[-1] == (steps, trial.loss, trial.right)
    assert trial.loss == pytest.approx(sum(loss for _, loss, _ in told[-40:]) / 40)


def test_every_seed_has_sequences_of_its_own_and_every_batch_too(monkeypatch):
    batches = []

    def draw(length, rows, generator):
        batches.append(TASKS["adding"].draw(length, rows, generator))
        return batches[-1]

    monkeypatch.setitem(TASKS, "fake", dataclasses.replace(TASKS["adding"], draw=draw))
    for seed in (0, 0, 1):
        solve("rnn", "fake", 9, seed, Learning(steps=2, hidden_size=1, backend="eager"))
    first, second, again, _, other, _ = [x for x, _ in batches]
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


def test_one_update_less_is_not_enough(monkeypatch):
    fake(monkeypatch)
    learning = Learning(steps=39, hidden_size=1, batch_size=50, backend="eager")
    trial = solve("rnn", "fake", 1, learning=learning)
    assert (trial.end, trial.solved, trial.steps, trial.right) == ("steps", False, 39, 1.0)


def test_words_of_errors():
    with pytest.raises(SettingError, match="a task is one of adding, copy, order, reber, parity; got 'sums'; write"):
        find_task("sums")
    with pytest.raises(SettingError, match="lengths of the task reber are at least 9; got 8; write more"):
        solve("rnn", "reber", 8)
    with pytest.raises(SettingError, match="batch_size is above 0; got 0; write a positive number"):
        Learning(batch_size=0)
    with pytest.raises(SettingError, match=r"forget_bias is a number, or 'chrono', or None; got 'crono'; write 1.0"):
        Learning(forget_bias="crono")
