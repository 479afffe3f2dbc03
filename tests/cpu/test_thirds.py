"""Products of float32 numbers in thirds, where the machine has the tiles: as exact as plain ones."""

import pytest
import torch

import cellwright as cw
from cellwright.cells import LIBRARY
from cellwright.kernels import choose
from cellwright.kernels.c import buffers
from cellwright.kernels.c.compiler import find_compiler
from cellwright.kernels.c.core import core
from cellwright.kernels.fuse import look
from cellwright.kernels.gradients import Leaves
from tests.oracle import CORE, as_function, flat, results_and_gradients, twins

pytestmark = pytest.mark.skipif(
    find_compiler() is None or not core(torch.float32).pack_thirds, reason="this machine has no tiles for bfloat16"
)
PLAIN = 1 << 30  # rows of a batch below which products are plain
SIZES = [(1, 16), (5, 7), (28, 33), (33, 48), (70, 20)]
BATCHES = [3, 16, 17, 33, 70]


def made(layer, x):
    """Whether the products of its last run, on such an x, were in thirds."""
    return list(layouts_of(layer, x))[-1].thirds


def layouts_of(layer, x):
    """The memory of all its kinds of runs so far."""
    return choose(layer.first_cell, "c", x).entry.fused._layouts


def share_columns(shared, monkeypatch):
    """Threads share columns, or not, forward and backward."""
    tables = {back: ((-1, 1000.0),) if one else () for back, one in zip((False, True), shared, strict=True)}
    monkeypatch.setattr(buffers, "SHARED_THIRDS", tables)


def thirds_from(least, layer, x, monkeypatch):
    """From now on so many rows are in thirds, also in runs of a size whose plan is known."""
    monkeypatch.setattr(buffers, "THIRDS_ROWS", ((0, least),))
    choose(layer.first_cell, "c", x).entry.fused._even.clear()


def computed(layer, inputs, monkeypatch, least):
    thirds_from(least, layer, inputs[0], monkeypatch)
    found = flat(results_and_gradients(as_function(layer), inputs))
    assert made(layer, inputs[0]) == (least < PLAIN)
    return found


def drawn(layer, steps, batch, scale=1.0):
    first = layer.first_cell
    x = scale * torch.randn(steps, batch, first.input_size)
    states = [torch.randn(1, batch, size) for size in first.state_sizes]
    return [one.requires_grad_() for one in (x, *states)] + list(layer.parameters())


def off(found, exact):
    """Of every result how far it is off, against its size."""
    return torch.stack([(f.double() - e).norm() / e.norm().clamp_min(1e-30) for f, e in zip(found, exact, strict=True)])


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("inputs", "hidden"), SIZES)
@pytest.mark.parametrize("name", ["lstm", "gru", "gru-reset-before"])
def test_thirds_are_as_exact_as_plain_numbers(name, inputs, hidden, batch, monkeypatch):
    fused, plain = twins(LIBRARY[name](inputs, hidden))
    given = drawn(fused, 12, batch)
    parted = computed(fused, given, monkeypatch, 3)
    whole = computed(fused, given, monkeypatch, PLAIN)
    wide = plain.double()
    states = [one.detach().double().requires_grad_() for one in given[: 1 + len(fused.first_cell.state)]]
    exact = flat(results_and_gradients(as_function(wide), states + list(wide.parameters())))
    assert torch.all(off(parted, exact) <= 1.5 * off(whole, exact) + 2e-7)


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1e6, 1e20])
def test_any_size_of_numbers(scale, monkeypatch):
    fused, _ = twins(LIBRARY["rnn"](40, 33))
    given = drawn(fused, 5, 20, scale)
    with torch.no_grad():
        fused.first_cell.W_xh.div_(scale)
    parted, whole = (computed(fused, given, monkeypatch, least) for least in (3, PLAIN))
    assert torch.all(off(parted, [one.double() for one in whole]) < 2e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3.4e38])
@pytest.mark.parametrize("where", ["x", "h", "weight", "dy"])
@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("shared", [(False, False), (True, False)])
def test_numbers_that_are_not_finite_go_where_plain_ones_do(name, where, value, shared, monkeypatch):
    share_columns(shared, monkeypatch)
    fused, _ = twins(LIBRARY[name](34, 21))
    given = drawn(fused, 5, 19)
    weight = next(one for one in fused.parameters() if one.dim() == 2)
    dy = torch.randn(5, 19, 21)
    with torch.no_grad():
        {"x": given[0][2], "h": given[1][0], "weight": weight, "dy": dy[3]}[where][1, 1] = value

    def results(least):
        thirds_from(least, fused, given[0], monkeypatch)
        states = tuple(given[1 : 1 + len(fused.first_cell.state)])
        y, _ = fused(given[0], states if len(states) > 1 else states[0])
        assert made(fused, given[0]) == (least < PLAIN)
        return y.detach(), *torch.autograd.grad(y, given, dy)

    for one, other in zip(results(3), results(PLAIN), strict=True):
        finite = other.isfinite()
        torch.testing.assert_close(one[~finite], other[~finite], equal_nan=True)
        most = other[finite].abs().max().item() if finite.any() else 0.0
        torch.testing.assert_close(one[finite], other[finite], atol=1e-5 * most, rtol=0)


@pytest.mark.parametrize("row", [1, 40, 69])
@pytest.mark.parametrize("name", CORE)
def test_rows_that_are_not_finite_in_any_group_of_rows(name, row, monkeypatch):
    share_columns((True, False), monkeypatch)
    fused, plain = twins(LIBRARY[name](34, 70))
    x = torch.randn(5, 70, 34)
    x[2, row, 33] = float("inf")
    with torch.no_grad():
        found, wanted = fused(x)[0], plain(x)[0]
    assert made(fused, x)
    torch.testing.assert_close(found, wanted, equal_nan=True, atol=1e-5, rtol=1e-5)


def test_weights_that_are_finite_again_are_in_thirds_again(monkeypatch):
    layer = cw.Recurrent(LIBRARY["lstm"](34, 21), backend="c")
    x = torch.randn(5, 19, 34)
    monkeypatch.setattr(buffers, "THIRDS_ROWS", ((0, 3),))
    weight = next(one for one in layer.parameters() if one.dim() == 2)
    with torch.no_grad():
        before = layer(x)[0]
        kept = weight[0, 0].clone()
        weight[0, 0] = float("inf")
        assert layer(x)[0].isnan().any() or not torch.equal(layer(x)[0], before)
        weight[0, 0] = kept
        assert torch.equal(layer(x)[0], before)


def test_sequences_of_different_lengths(monkeypatch):
    fused, plain = twins(LIBRARY["lstm"](28, 33))
    x = torch.randn(9, 35, 28)
    lengths = torch.randint(1, 10, (35,))
    monkeypatch.setattr(buffers, "THIRDS_ROWS", ((0, 3),))
    with torch.no_grad():
        found, wanted = (flat(layer(x, lengths=lengths)) for layer in (fused, plain))
    assert made(fused, x)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("rows", ["even", "ragged", "begun anew"])
@pytest.mark.parametrize("name", ["rnn", "lstmp", "gru-reset-before", "lstm-layernorm", "mgu"])
@pytest.mark.parametrize("shared", [(False, False), (False, True), (True, False), (True, True)])
def test_training_where_rows_come_and_go(name, rows, shared, monkeypatch):
    """Where they do not, a step back does the first pass of the one before it, beside its own products."""
    share_columns(shared, monkeypatch)
    fused, _ = twins(LIBRARY[name](28, 61))
    given = drawn(fused, 7, 70)
    lengths = torch.randint(1, 8, (70,)) if rows == "ragged" else None
    resets = torch.rand(7, 70) < 0.1 if rows == "begun anew" else None
    dy = torch.randn(7, 70, fused.first_cell.output_size)

    def results(least):
        thirds_from(least, fused, given[0], monkeypatch)
        states = tuple(given[1 : 1 + len(fused.first_cell.state)])
        y, last = fused(given[0], states if len(states) > 1 else states[0], lengths=lengths, resets=resets)
        assert any(one.thirds and one.columns == shared for one in layouts_of(fused, given[0])) or least == PLAIN
        return flat((y, last)) + flat(torch.autograd.grad((y * dy).sum(), given, allow_unused=True))

    for one, other in zip(results(3), results(PLAIN), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5 * other.abs().max().item(), rtol=0)


def test_there_is_room_for_the_rows_of_all_threads_in_each(monkeypatch):
    """Fewer may come than were asked for: each then has more rows, and none may split them where another does."""
    layer, x = cw.Recurrent(LIBRARY["lstm"](34, 21), backend="c"), torch.randn(5, 190, 34)
    monkeypatch.setattr(buffers, "THIRDS_ROWS", ((0, 3),))
    before = torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        layer(x)
    torch.set_num_threads(before)
    layouts = layouts_of(layer, x)
    assert [sizes.thirds for sizes in layouts] == [True, True]
    assert len({layout.parted for layout in layouts.values()}) == 1


@pytest.mark.parametrize("name", ["lstm", "gru", "gru-reset-before", "mgu", "nas"])
def test_the_scratch_that_is_planned_is_what_products_take(name):
    """It is asked for before anything has an address."""
    cell, x = LIBRARY[name](28, 64), torch.randn(6, 9, 28)
    fused, seen = choose(cell, "c", x).entry.fused, look(cell)
    *_, saved = fused.forward(x, (None,) * len(cell.state_sizes), Leaves(seen.leaves), True)
    blocks, sizes = fused._blocks(saved, saved.results.piece.start), saved.layout.sizes
    count = len(fused.program.blocks)
    taken = fused.core.contract(blocks.buffer_info()[0], count, sizes.rows, None, None, 0, sizes.team)
    assert buffers._contract_scratch(fused.program, fused.core.contract, sizes) == taken


def test_the_same_bits_on_any_threads_and_in_any_run(monkeypatch):
    share_columns((True, False), monkeypatch)
    fused, _ = twins(LIBRARY["gru"](28, 48))
    given = drawn(fused, 20, 37)
    before = torch.get_num_threads()
    found = []
    for count in (1, 2, 2):
        torch.set_num_threads(count)
        found.append(computed(fused, given, monkeypatch, 3))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0][:1], other[:1], strict=True))
    assert all(torch.equal(one, two) for one, two in zip(found[1], found[2], strict=True))
