"""Memory that is lent comes back when the last tensor in it is gone, and is nobody else's until then."""

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import cellwright as cw
from cellwright.cells import LIBRARY, LSTM, RNN
from cellwright.kernels.c import pool as pools
from cellwright.kernels.c.pool import Pool


@pytest.fixture
def pool():
    return Pool(torch.float32)


def test_what_is_lent_has_a_shape_and_room_ahead(pool):
    lent = pool.lend((3, 5, 7), ahead=11)
    assert (lent.shape, lent.dtype, lent.storage_offset()) == ((3, 5, 7), torch.float32, 0)
    assert lent.is_contiguous()
    assert lent._base is None
    assert (lent.data_ptr() - 11 * 4) % 64 == 0
    assert pool.lend((0, 4)).shape == (0, 4)


def test_memory_is_used_again_once_all_is_gone_that_lies_in_it(pool):
    first = pool.lend((5000,))
    start, view, array = first.data_ptr(), first[7:9], first.numpy()
    del first
    assert pool.lend((5000,)).data_ptr() != start
    del view
    assert pool.lend((5000,)).data_ptr() != start
    del array
    assert pool.lend((5000,)).data_ptr() == start


def test_pieces_of_nearly_one_size_are_one_size(pool):
    start = pool.lend((100_000,)).data_ptr()
    assert pool.lend((100_001,)).data_ptr() == start
    assert pool.lend((110_000,)).data_ptr() != start


def test_no_more_waits_than_was_in_use_at_once(pool):
    for size in range(1, 30):
        pool.lend((size * 1000,))
        assert pool.used == 0
        assert pool.idle <= pool.most
    assert pool.idle >= 29_000


def test_what_came_back_longest_ago_is_let_go_first(pool):
    together = [pool.lend((2000,)), pool.lend((3000,))]
    del together
    pool.lend((4000,))
    assert sum(map(len, pool._waiting.values())) < 3
    assert 4096 in pool._waiting


def test_all_that_waits_is_let_go_when_asked(pool):
    kept, gone = pool.lend((5000,)), pool.lend((7000,))
    del gone
    assert pool.idle
    pool.empty()
    assert (pool.idle, pool.used) == (0, 5120)
    del kept
    assert (pool.idle, pool.used) == (5120, 0)


def test_threads_share_it(pool):
    def work(number):
        for turn in range(200):
            mine = pool.lend((1000 + number % 2,)).fill_(number)
            if turn % 50 == 0:
                gc.collect()
            assert (mine == number).all()
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(8)))
    assert pool.used == 0


def test_results_stay_as_they_are_while_anybody_has_them():
    torch.manual_seed(0)
    layer, x = cw.Recurrent(LSTM(3, 8), backend="c"), torch.randn(6, 4, 3, requires_grad=True)
    had, known = [], []
    for scale in range(1, 6):
        layer.zero_grad()
        y, (h, _) = layer(scale * x)
        (gradient,) = torch.autograd.grad(y.square().sum(), x, retain_graph=True)
        y.sum().backward()
        had += [y.detach()[2:], h.detach().numpy(), gradient, layer.cells[0].W_hi.grad]
        known += [torch.as_tensor(one).clone() for one in had[-4:]]
        del y, h, gradient
    for one, other in zip(had, known, strict=True):
        assert torch.equal(torch.as_tensor(one), other)


def test_training_takes_no_new_memory(monkeypatch):
    layer, x = cw.Recurrent(RNN(3, 8), num_layers=2, bidirectional=True, backend="c"), torch.randn(6, 4, 3)

    def step():
        layer.zero_grad()
        layer(x)[0].sum().backward()

    for _ in range(3):
        step()
    made = []
    monkeypatch.setattr(pools, "large_pages", lambda memory: made.append(memory) or memory)
    for _ in range(3):
        step()
    assert made == []


def test_what_waits_can_be_given_back_to_the_system():
    cw.Recurrent(RNN(3, 8), backend="c")(torch.randn(6, 4, 3))
    pools.empty()
    assert pools.pool(torch.float32).idle == 0


@pytest.mark.parametrize("name", ["lstm", "lstmp"])  # y is a state, or memory of its own
def test_what_no_backward_follows_is_freed_without_the_garbage_collector(name):
    layer, x = cw.Recurrent(LIBRARY[name](3, 8), backend="c"), torch.randn(6, 4, 3)
    layer(x)
    gc.collect()
    gc.disable()
    try:
        before = pools.pool(torch.float32).used
        for _ in range(3):
            layer(x)
        assert pools.pool(torch.float32).used == before
    finally:
        gc.enable()


def test_views_hold_what_was_lent(pool):
    lent = pool.array((3000,))
    one, other = (pools.view(lent, (2, 3), (3, 1), start) for start in (7, 1000))
    start = lent.piece.start
    del lent
    assert (one.data_ptr(), other.data_ptr()) == (start + 28, start + 4000)
    del one
    assert pool.used
    del other
    assert pool.used == 0


def test_gradients_stay_as_they_are_while_anybody_has_them():
    layer, x = cw.Recurrent(LSTM(5, 5), num_layers=2, backend="c"), torch.randn(7, 2, 5, requires_grad=True)
    had = torch.autograd.grad(layer(x)[0].square().sum(), [x, *layer.parameters()])
    known = [one.clone() for one in had]
    for _ in range(3):
        layer(2 * x)[0].sum().backward()
        layer.zero_grad()
    assert all(map(torch.equal, had, known))
