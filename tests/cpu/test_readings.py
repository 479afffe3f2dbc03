"""Whatever a step reads besides its modules and weights may change between calls, and is noticed."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import cellwright as cw
from cellwright.cells import LIBRARY
from cellwright.kernels import fuse, readings
from cellwright.kernels.readings import Readings
from tests.cpu.layers import results, same

GAIN = 1.0
SLOPE = torch.ones(1, dtype=torch.float64)


@pytest.fixture(autouse=True)
def slope():
    yield
    SLOPE.fill_(1)


class Options:
    offset = 0.0


def scaled(value):
    return GAIN * value + Options.offset


def cell_with(share):
    """A cell that reads settings from everywhere: objects, a global, a class, its own class, a variable around it."""

    class Reader(cw.Cell):
        state = ("h",)
        bonus = 0.0

        def __init__(self, input_size, hidden_size):
            super().__init__(input_size, hidden_size)
            self.options = SimpleNamespace(alpha=0.5, more={"rates": [0.25, (1.0, 2.0)]})
            self.linear = nn.Linear(input_size + hidden_size, hidden_size)
            self.act = lambda value: torch.tanh(SLOPE * value)

        def shifted(self, h):
            return h + self.bonus

        def step(self, x, h):
            h = self.options.alpha * h + scaled(self.act(self.linear(torch.cat([x, h], 1))))
            return self.shifted(share * h + self.options.more["rates"][0])

    def set_share(value):
        nonlocal share
        share = value

    return Reader(2, 3).double(), set_share


def change_attribute(cell, set_share, patch):
    cell.options.alpha = 0.75


def change_entry(cell, set_share, patch):
    cell.options.more["rates"][0] = 0.5


def change_global(cell, set_share, patch):
    patch.setitem(globals(), "GAIN", 2.0)


def change_tensor(cell, set_share, patch):
    patch.setitem(globals(), "SLOPE", 2 * SLOPE)


def change_tensor_in_place(cell, set_share, patch):
    SLOPE.mul_(3)


def change_function(cell, set_share, patch):
    patch.setitem(globals(), "scaled", lambda value: 3 * value)


def change_class(cell, set_share, patch):
    patch.setattr(Options, "offset", 0.125)


def change_own_class(cell, set_share, patch):
    patch.setattr(type(cell), "bonus", 0.125)


def change_variable(cell, set_share, patch):
    set_share(0.5)


CHANGES = [change_attribute, change_entry, change_global, change_tensor, change_tensor_in_place, change_function]
CHANGES += [change_class, change_own_class, change_variable]


@pytest.mark.parametrize("change", CHANGES)
def test_a_setting_that_changes_anywhere_in_reach_of_a_step_is_noticed(change, monkeypatch):
    cell, set_share = cell_with(1.0)
    fused, plain = (cw.Recurrent([cell], backend=backend) for backend in ("c", "eager"))
    x = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    before = results(fused, x)
    same(before, results(plain, x))
    change(cell, set_share, monkeypatch)
    after = results(fused, x)
    same(after, results(plain, x))
    assert not torch.allclose(before[0], after[0])


def test_settings_that_come_back_find_what_was_compiled_for_them():
    cell, _ = cell_with(1.0)
    layer, x = cw.Recurrent([cell], backend="c"), torch.zeros(1, 1, 2, dtype=torch.float64)
    for alpha in (0.5, 0.75, 0.5, 0.75):
        cell.options.alpha = alpha
        layer(x)
    assert len(fuse._entries[cell]) == 2


def test_settings_that_change_all_the_time_are_spoken_of_and_not_kept_for_ever(monkeypatch):
    monkeypatch.setattr(fuse, "MOST_KEPT", 9)
    monkeypatch.setenv("CELLWRIGHT_CFLAGS", "-O0")
    cell, _ = cell_with(1.0)
    layer, x = cw.Recurrent([cell], backend="c"), torch.zeros(1, 1, 2, dtype=torch.float64)
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        for count in range(11):
            cell.options.alpha = count / 16
            layer(x)
    assert [str(one.message) for one in caught] == [
        "a cell is compiled anew for every value of its settings (attributes, globals, what closures hold); "
        "Reader(2, 3) has had 8; what changes often is quick as a buffer that is changed in place, or as columns of x"
    ]
    assert len(fuse._entries[cell]) == 9


@pytest.mark.parametrize("name", LIBRARY)
def test_cells_of_the_library_have_nothing_to_watch(name):
    assert Readings(LIBRARY[name](8, 8)).tables == []


def test_what_is_large_or_goes_round_in_circles_is_let_be():
    class Holder(nn.Module):
        def forward(self, x, h):
            return self.data, self.circle, self.many

    module = Holder()
    module.data = list(range(readings.MOST + 1))
    module.circle = SimpleNamespace(rate=0.5)
    module.circle.back = module.circle
    module.many = [SimpleNamespace(n=n) for n in range(readings.MOST)]
    found = Readings(module)
    assert ("circle.rate", 0.5) in found.marks
    assert [path for path, _ in found.marks if path.startswith("data")] == ["data"]  # as one object
    assert len(found.tables) <= readings.MOST


def test_classes_that_share_a_function_are_each_looked_at(monkeypatch):
    class Base(nn.Module):
        rate = 1.0

        def forward(self, x):
            return self.rate * x

    class One(Base):
        rate = 0.5

    class Two(Base):
        rate = 0.25

    class Both(cw.Cell):
        state = ("h",)

        def __init__(self, input_size, hidden_size):
            super().__init__(input_size, hidden_size)
            self.one, self.two, self.linear = One(), Two(), nn.Linear(input_size, hidden_size)

        def step(self, x, h):
            return self.two(h) + self.one(self.linear(x))

    fused, plain = (cw.Recurrent([cell], backend=b) for cell in [Both(2, 3).double()] for b in ("c", "eager"))
    x = torch.randn(4, 2, 2, dtype=torch.float64)
    for kind in (One, Two):
        before = fused(x)[0].detach()
        monkeypatch.setattr(kind, "rate", 0.75)
        same([fused(x)[0]], [plain(x)[0]])
        assert not torch.allclose(before, fused(x)[0])


class Slotted:
    __slots__ = ("rate",)

    def __init__(self, rate):
        self.rate = rate


def test_an_object_that_cannot_be_looked_into_is_another_one_when_it_is_replaced():
    class Opaque(cw.cells.RNN):
        options = SimpleNamespace(slotted=Slotted(0.5))

        def step(self, x, h):
            return self.options.slotted.rate * super().step(x, h)

    fused, plain = (cw.Recurrent([cell], backend=b) for cell in [Opaque(2, 3).double()] for b in ("c", "eager"))
    x = torch.randn(4, 2, 2, dtype=torch.float64)
    before = fused(x)[0].detach()
    Opaque.options.slotted = Slotted(0.75)
    same([fused(x)[0]], [plain(x)[0]])
    assert not torch.allclose(before, fused(x)[0])


def test_another_object_at_the_same_address_is_another_object():
    one, two = [1], [1]
    assert readings.mark(one) == readings.mark(one) != readings.mark(two)
    assert readings.mark((1, "a")) == (1, "a")
