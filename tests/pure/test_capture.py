"""A traced step is the step: its atoms, evaluated, give its values and gradients; what cannot be traced says why."""

import cProfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import cellwright as cw
from cellwright.cells import GRU, LIBRARY, LSTM, RNN
from cellwright.kernels.c.render import render
from cellwright.program import plan
from cellwright.step import Refused, capture
from tests.cpu.random_cells import PROGRAM, WIDTHS, RandomCell
from tests.cpu.strangers import STRANGERS, draw_weights, output_width, widths
from tests.traced import assert_step_is_its_atoms

F64 = torch.float64


@pytest.mark.parametrize("name", LIBRARY)
def test_the_atoms_of_a_library_cell_are_its_step(name):
    cell = LIBRARY[name](3, 5).double()
    assert_step_is_its_atoms(capture(cell, F64), cell)


@pytest.mark.parametrize("name", sorted(STRANGERS.keys() - {"maxout-gate", "shared-weights"})[::3])
def test_the_atoms_of_a_strangers_cell_are_its_step(name):
    module = draw_weights(STRANGERS[name](3, 8)).double()
    cell = cw.adapt(module, input_size=3, state_sizes=widths(name, 8), output_size=output_width(name, 8))
    assert_step_is_its_atoms(capture(cell, F64), cell)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    inputs=st.integers(1, 5),
    sizes=st.lists(WIDTHS, min_size=1, max_size=3),
    program=PROGRAM,
    has_output=st.booleans(),
    needs_x=st.booleans(),
)
def test_the_atoms_of_a_random_cell_are_its_step_and_can_be_planned(inputs, sizes, program, has_output, needs_x):
    torch.manual_seed(0)
    module = RandomCell(inputs, sizes, program, has_output)
    cell = cw.adapt(module, inputs, tuple(sizes), module.output_size)
    try:
        step = capture(cell, F64)
        render(plan(step, cell.state, needs_x), "a random cell")
    except Refused as refused:  # a limit that is said in words is no failure
        if "shifted against each other" not in str(refused) and "over 64" not in str(refused):
            raise
        return
    assert_step_is_its_atoms(step, cell, atol=1e-10)


def test_values_are_called_what_their_author_called_them():
    step = capture(LSTM(3, 5), torch.float32)
    names = set(step.names.values())
    assert {"i", "f", "o", "g", "c", "h"} <= names
    by_name = {name: step.atoms[atom].op for atom, name in step.names.items()}
    assert by_name["i"] == by_name["f"] == by_name["o"] == "sigmoid"
    assert by_name["g"] == "tanh"


def test_every_atom_knows_its_line():
    step = capture(RNN(3, 5), torch.float32)
    tanh = next(place for place, atom in enumerate(step.atoms) if atom.op == "tanh")
    file, line = step.wheres[tanh].rsplit(":", 1)
    assert file.endswith("rnn.py")
    assert int(line) > 0


def test_two_captures_are_equal_and_leave_the_cell_alone():
    cell = GRU(3, 5)
    before = {name: (value.clone(), value.data_ptr()) for name, value in cell.named_parameters()}
    random = torch.get_rng_state()
    one, other = capture(cell, torch.float32), capture(cell, torch.float32)
    assert one.atoms == other.atoms
    assert torch.equal(random, torch.get_rng_state())
    for name, value in cell.named_parameters():
        assert torch.equal(value, before[name][0])
        assert value.data_ptr() == before[name][1]
        assert value.grad is None


class Odd(cw.Cell):
    """A cell with one line that a test chooses."""

    state = ("h",)
    gates = {"h": "hidden state"}

    def __init__(self, line):
        super().__init__(3, 5)
        self.add_gates()
        self.line, self.calls, self.log = line, 0, []
        self.register_buffer("seen", torch.zeros(5))

    def step(self, x, h):
        return torch.tanh(self.line(self, x @ self.W_xh + h @ self.W_hh))


def count_calls(cell, a):
    cell.calls += 1
    return a


def append(cell, a):
    cell.log.append(1)
    return a


def count_in_buffer(cell, a):
    cell.seen += 1
    return a + cell.seen


def decide(cell, a):
    return a if a[0, 0] > 0 else -a


def write_rows(cell, a):
    cell.seen.copy_(a[0].detach())
    return a * cell.seen


def fail_while_traced(cell, a):
    if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
        raise OSError("not now")
    return a


REFUSED = {  # a line, and words of the reason
    "mean of the batch": (lambda cell, a: a - a.mean(0, keepdim=True), "row"),
    "sum of the batch": (lambda cell, a: a * a.sum(0), "row"),
    "rows turned": (lambda cell, a: a + a.flip(0), "row"),
    "rows shifted": (lambda cell, a: a + a.roll(1, 0), "row"),
    "first row": (lambda cell, a: a + a[:1], "row"),
    "rows by rows": (lambda cell, a: (a @ a.T) @ a, "row"),
    "softmax over rows": (lambda cell, a: a.softmax(0), "row"),
    "cumsum over rows": (lambda cell, a: a.cumsum(0), "cumsum"),
    "number of rows": (lambda cell, a: a / a.shape[0], "batch size"),
    "random numbers": (lambda cell, a: a + torch.randn_like(a), "random"),
    "dropout": (lambda cell, a: nn.functional.dropout(a), "random"),
    "a decision": (decide, "depends on the values"),
    "a number": (lambda cell, a: a * a[0, 1].item(), "depends on the values"),
    "an attribute": (count_calls, "attribute"),
    "a list": (append, "attribute"),
    "a buffer": (count_in_buffer, "changes a weight, a buffer"),
    "rows in a buffer": (write_rows, "changes a weight, a buffer"),
    "a weight": (lambda cell, a: a + cell.b_h.detach().zero_(), "changes a weight"),
    "another type": (lambda cell, a: a.double().float(), "float64"),
    "numbers by numpy": (
        lambda cell, a: a * torch.from_numpy(a[0].detach().numpy().copy()),
        "numbers out of its tensors",
    ),
    "numbers in a list": (lambda cell, a: a * sum(a[0].tolist()), "computes something else"),
    "an error while it is traced": (fail_while_traced, "OSError while it was traced: not now"),
    "sorted columns": (lambda cell, a: a.sort(1).values, "sort"),
}


OF_THE_WHOLE_STEP = {
    "number of rows",
    "an attribute",
    "a list",
    "numbers by numpy",
    "numbers in a list",
    "an error while it is traced",
}
WITH_A_LINE = REFUSED.keys() - OF_THE_WHOLE_STEP


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_loops_is_refused_with_the_operation_and_the_line(name):
    line, words = REFUSED[name]
    with pytest.raises(Refused) as caught:
        capture(Odd(line), torch.float32)
    assert words in str(caught.value)
    if name in WITH_A_LINE:
        assert f"test_capture.py:{line.__code__.co_firstlineno + (line.__name__ != '<lambda>')}" in str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_runs_step_by_step_as_it_is_written(name):
    torch.manual_seed(0)
    cell = Odd(REFUSED[name][0])
    layer, plain = cw.Recurrent(cell), cw.Recurrent([cell], backend="eager")
    assert "backend eager" in layer.explain()
    assert REFUSED[name][1] in layer.explain()
    with pytest.raises(cw.errors.BackendError, match=REFUSED[name][1]):
        cw.Recurrent([cell], backend="c")
    x = torch.randn(3, 4, 3)
    found = []
    for one in (layer, plain):
        cell.calls, cell.seen = 0, torch.zeros(5)
        torch.manual_seed(1)
        found.append(one(x)[0])
    assert torch.equal(*found)


def test_a_step_is_traced_under_a_profiler_which_goes_on_afterwards():
    with cProfile.Profile() as profiler:
        found = capture(LIBRARY["lstm"](3, 5), torch.float32)
        sorted([3, 1, 2])
    assert {"i", "f", "o", "g"} <= set(found.names.values())
    profiler.create_stats()
    assert any("sorted" in name for _, _, name in profiler.stats)
