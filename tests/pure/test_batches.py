"""Batches as the tutorials cut them, and any of them found again from seed, epoch and place."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from cellwright.errors import TextError
from cellwright.text.batches import Batches

sizes = {
    "count": st.integers(1, 400),
    "rows": st.integers(1, 5),
    "steps": st.integers(1, 9),
    "seed": st.integers(0, 50),
}


def make(count, rows, steps, seed, order):
    assume(count >= rows * steps + steps)
    return Batches(np.arange(count, dtype=np.uint16), rows, steps, order, seed)


@given(order=st.sampled_from(["sequential", "random"]), **sizes)
def test_targets_are_the_next_tokens_and_no_token_is_trained_twice(order, **size):
    batches = make(order=order, **size)
    seen = []
    for x, y in batches.epoch(3):
        assert x.shape == y.shape == (batches.steps, batches.batch_size)
        assert torch.equal(y, x + 1)
        assert torch.equal(x, x[0] + torch.arange(batches.steps)[:, None])
        seen += x.flatten().tolist()
    assert len(seen) == len(set(seen)) == len(batches) * batches.steps * batches.batch_size
    left_out = len(batches.tokens) - len(seen)
    assert left_out <= batches.steps * (batches.batch_size + 1)


@given(**sizes)
def test_sequential_rows_go_on_where_they_ended(**size):
    batches = make(order="sequential", **size)
    inputs = [x for x, _ in batches.epoch(1)]
    for before, after in itertools.pairwise(inputs):
        assert torch.equal(after[0], before[-1] + 1)


@given(order=st.sampled_from(["sequential", "random"]), first=st.integers(0, 30), **sizes)
def test_an_epoch_taken_up_in_the_middle_is_the_same(order, first, **size):
    batches = make(order=order, **size)
    whole = list(batches.epoch(2))[first:]
    rest = list(batches.epoch(2, first))
    assert len(whole) == len(rest)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole, rest, strict=True))


def test_epochs_and_seeds_differ():
    tokens = np.arange(2000, dtype=np.uint16)
    for order in ("sequential", "random"):
        first = [next(Batches(tokens, 4, 30, order, seed).epoch(epoch))[0] for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
        assert not torch.equal(first[0], first[1])
        assert not torch.equal(first[0], first[2])


def test_a_text_that_fills_no_batch_is_refused():
    with pytest.raises(TextError) as caught:
        Batches(np.arange(100, dtype=np.uint8), 32, 35, "sequential", 0)
    assert "at least batch_size * steps + steps = 1,155 tokens; got 100 tokens" in str(caught.value)
    smallest = Batches(np.arange(1155, dtype=np.uint16), 32, 35, "sequential", 0)
    assert len(list(smallest.epoch(0))) == 1
