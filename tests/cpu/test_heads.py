"""Recurrent matrices in heads: the cell whose matrices have those blocks on their diagonals, fused or not."""

import pytest
import torch

import cellwright as cw
from cellwright.cells import LIBRARY
from cellwright.cells.heads import split_in_heads
from cellwright.errors import CellError
from tests.oracle import as_function, assert_same, drawn_inputs, tolerance, twins

HIDDEN, STEPS = 6, 4
CELLS = ("rnn", "gru", "gru-reset-before", "lstm", "mgu")


def in_heads(name, heads):
    cell = LIBRARY[name](3, HIDDEN).double()
    for weight, (_, role) in cell.roles.items():
        if role == "recurrent weight":
            split_in_heads(cell, weight, heads)
    return cell


def with_whole_matrices(name, layer):
    """A layer of the plain cell as a function of what `layer` is a function of: blocks become matrices."""
    whole = cw.Recurrent(LIBRARY[name](3, HIDDEN).double(), backend="eager")
    run = as_function(whole)
    places = {one: place for place, (one, _) in enumerate(layer.named_parameters())}
    states = len(layer.first_cell.state)

    def matrix(one, parameters):
        path, _, weight = one.rpartition(".")
        blocks = places.get(f"{path}.parametrizations.{weight}.original")
        return parameters[places[one]] if blocks is None else torch.block_diag(*parameters[blocks])

    def run_blocks(x, *rest):
        state, parameters = rest[:states], rest[states:]
        return run(x, *state, *(matrix(one, parameters) for one, _ in whole.named_parameters()))

    return run_blocks


@pytest.mark.parametrize("heads", [2, 3])
@pytest.mark.parametrize("name", CELLS)
def test_heads_are_blocks_on_the_diagonal(name, heads):
    fused, plain = twins(in_heads(name, heads))
    inputs = drawn_inputs(fused, STEPS, 2, torch.float64)
    atol = tolerance(torch.float64, STEPS)
    assert_same(as_function(plain), with_whole_matrices(name, plain), inputs, atol)
    if heads == 2:
        assert_same(as_function(fused), as_function(plain), inputs, atol)


def test_a_matrix_becomes_its_blocks():
    cell = LIBRARY["rnn"](3, HIDDEN)
    matrix = cell.W_hh.detach().clone()
    split_in_heads(cell, "W_hh", 3)
    blocks = cell.parametrizations.W_hh.original
    assert blocks.shape == (3, 2, 2)
    assert torch.equal(blocks[1], matrix[2:4, 2:4])


@pytest.mark.parametrize("heads", [0, 4, 1.5, True])
def test_heads_that_do_not_fit_are_refused(heads):
    with pytest.raises(CellError) as raised:
        split_in_heads(LIBRARY["rnn"](3, HIDDEN), "W_hh", heads)
    assert str(raised.value) == (
        "heads cut a matrix (H, H) into blocks of equal size: H is a multiple of heads; "
        f"got heads={heads!r} for W_hh of shape (6, 6); write heads=1, or change the hidden size"
    )
