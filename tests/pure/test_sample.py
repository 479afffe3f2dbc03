"""Picking tokens: what each rule lets through, and how often."""

import pytest
import torch

from cellwright.errors import SettingError
from cellwright.text.sample import Picker, pick_rows, sample

LOGITS = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.1]))


def frequencies(picker, count=4000):
    generator = torch.Generator().manual_seed(0)
    picks = torch.tensor([picker.pick(LOGITS, generator) for _ in range(count)])
    return torch.bincount(picks, minlength=4) / count


RULES = [
    (Picker(), [0.5, 0.25, 0.15, 0.1]),
    (Picker(greedy=True), [1, 0, 0, 0]),
    (Picker(top_k=2), [2 / 3, 1 / 3, 0, 0]),
    (Picker(top_k=99), [0.5, 0.25, 0.15, 0.1]),
    (Picker(top_p=0.6), [2 / 3, 1 / 3, 0, 0]),
    (Picker(top_p=1e-9), [1, 0, 0, 0]),
    (Picker(never=(0,)), [0, 0.5, 0.3, 0.2]),
    (Picker(temperature=0.5), [0.7246, 0.1812, 0.0652, 0.029]),
]


@pytest.mark.parametrize(("picker", "expected"), RULES)
def test_tokens_come_as_often_as_the_rule_says(picker, expected):
    torch.testing.assert_close(frequencies(picker), torch.tensor(expected, dtype=torch.float32), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.0}, {"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_a_rule_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Picker(**wrong)


def counting(tokens, state):
    """A model sure of one thing: after n comes n + 1; its state counts what it has read."""
    logits = torch.nn.functional.one_hot((tokens + 1) % 10, 10).float() * 50
    return logits, (state or 0) + len(tokens)


def test_each_pick_is_read_before_the_next():
    assert list(sample(counting, [3, 4], 8, Picker())) == [5, 6, 7, 8, 9, 0, 1, 2]
    assert list(sample(counting, [3], 0, Picker())) == []


def test_the_same_seed_picks_the_same():
    def even(tokens, state):
        return torch.zeros(*tokens.shape, 10), None

    first, again, other = (list(sample(even, [0], 30, Picker(), seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_rows_are_picked_as_each_alone():
    logits = torch.randn(len(RULES), 4)
    pickers = [picker for picker, _ in RULES]

    def generators():
        return [torch.Generator().manual_seed(seed) for seed in range(len(RULES))]

    together, apart = generators(), generators()
    for _ in range(20):
        alone = [picker.pick(row, one) for picker, row, one in zip(pickers, logits, apart, strict=True)]
        assert pick_rows(logits, pickers, together) == alone


def test_a_pick_is_that_of_multinomial():
    generator, same = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    for logits in torch.randn(50, 30):
        expected = torch.multinomial(logits.softmax(0), 1, generator=same).item()
        assert Picker().pick(logits, generator) == expected
