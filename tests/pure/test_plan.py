"""The plan of a sequence: how many products each loop has, what is kept, and how it reads; and the C it becomes."""

import os
from pathlib import Path

import pytest
import torch

import cellwright as cw
from cellwright.cells import GRU, LIBRARY, LSTM, RNN
from cellwright.cells.stacked import StackedLSTM, StackedRNN
from cellwright.kernels.c.render import render
from cellwright.kernels.triton.render import render as kernels
from cellwright.kernels.triton.values import Values
from cellwright.program import plan
from cellwright.step import capture
from tests.oracle import CORE

GOLDEN = Path(__file__).parent.parent / "golden"


def planned(cell, needs_x=True):
    return plan(capture(cell, torch.float32), cell.state, needs_x)


def products(program, stage):
    """The products of a stage, as the number of matrices that each has side by side."""
    return [len(product.slots) for loop in program.stages[stage] for product in loop.products]


def dependent(program, stage):
    """How many passes of a stage have products that need the state, or the gradient of it: they come one by one."""
    inputs = [[read.atom for p in loop.products for read in p.inputs] for loop in program.stages[stage]]
    return sum(any(program.graph.atoms[atom].op != "x" for atom in atoms) for atoms in inputs)


@pytest.mark.parametrize(
    ("cell", "count"),
    [(RNN, 1), (LSTM, 1), (GRU, 1), (LIBRARY["gru-reset-before"], 2)],
    ids=["rnn", "lstm", "gru", "gru-reset-before"],
)
def test_a_step_waits_for_as_few_products_as_its_equations_allow(cell, count):
    program = planned(cell(3, 5))
    assert dependent(program, "forward") == dependent(program, "backward") == count


def test_gates_of_one_kind_share_a_product():
    program = planned(LSTM(3, 5))
    assert max(products(program, "forward")) == 4
    assert len(program.stages["forward"]) == len([loop for loop in program.stages["forward"] if loop.products])


@pytest.mark.parametrize(("cell", "gates"), [(StackedRNN, 1), (StackedLSTM, 4)])
def test_products_in_two_sums_with_biases_of_their_own_are_one_product(cell, gates):
    """linear(x) + linear(h), as torch.nn's cells are written."""
    program = planned(cell(3, 5), needs_x=False)
    assert products(program, "before") + products(program, "forward") == [gates]
    (product,) = program.stages["forward"][0].products
    assert [arg.width for arg in product.inputs] == [3, 5]


class Named(cw.Cell):
    """Sums that have names of their own stay as they are written."""

    state = ("h",)

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.x, self.h = (torch.nn.Linear(size, hidden_size) for size in (input_size, hidden_size))

    def step(self, x, h):
        projected = self.x(x)
        return torch.tanh(projected + self.h(h))


def test_what_the_author_gave_a_name_is_computed():
    assert "projected = x @ x.weight^T + x.bias" in str(planned(Named(3, 5), needs_x=False))


@pytest.mark.parametrize("name", ["rnn", "lstm"])
def test_one_matrix_serves_gates_and_gradients_in_turn(name):
    cell = LIBRARY[name](3, 5)
    program = planned(cell)
    assert program.buffers["kept"].width == program.buffers["hoisted"].width == 0
    assert program.buffers["d"].width == 5 * len(cell.gates)


def test_the_gradients_of_all_weights_are_few_products_after_the_loop():
    program = planned(LSTM(3, 5))
    assert sorted((block.rows, block.columns) for block in program.blocks) == [(3, 20), (5, 20)]
    assert sum(program.graph.atoms[atom].width for atom in program.sums) == 20


@pytest.mark.parametrize(
    ("name", "columns"),
    [("mingru", 2), ("minlstm", 3), ("unicornn", 1), ("lem", 4), ("gru-reset-before", 4), ("lstm", 4)],
)
def test_as_few_columns_are_kept_as_will_do(name, columns):
    program = planned(LIBRARY[name](3, 5), needs_x=False)
    stored = program.kept | program.inferred
    widths = {program.graph.atoms[a].width for a in stored if program.homes.get(a)}
    assert widths <= {5}
    homes = [{home.buffer for home in program.homes.get(atom, ())} for atom in stored]
    assert sum(bool(buffers & {"d", "kept", "hoisted"}) for buffers in homes) == columns


@pytest.mark.parametrize(
    ("name", "columns", "passes"), [("atr", 3, 0), ("atr", 100, 1), ("star", 3, 1), ("mingru", 3, 1), ("nas", 3, 1)]
)
def test_a_small_product_is_made_beside_that_of_the_state(name, columns, passes):
    """What takes a sigmoid or many columns, is all that there is or one of too many, before the loop."""
    assert len(planned(LIBRARY[name](columns, 5)).stages["before"]) == passes


def test_arithmetic_waits_for_the_pass_that_reads_it():
    program = planned(LIBRARY["gru-reset-before"](3, 5))
    assert not program.locals["forward"]  # z * h and 1 - z, which only the last pass reads
    assert len(program.locals["backward"]) == 2


@pytest.mark.parametrize("name", CORE)
def test_without_the_gradient_of_x_nothing_is_computed_for_it(name):
    cell = LIBRARY[name](3, 5)
    assert products(planned(cell), "after")
    program = planned(cell, needs_x=False)
    assert not program.stages["after"]
    assert "dx" not in str(program)


@pytest.mark.parametrize("name", CORE)
def test_values_that_share_memory_are_never_wanted_at_once(name):
    """Two atoms in the same columns of a matrix: the later is written when the earlier has been read for good."""
    program = planned(LIBRARY[name](3, 5))
    stages = ["before", "forward", "backward", "after"]
    made = {
        atom: (s, n)
        for s, stage in enumerate(stages)
        for n, atoms in enumerate(_made(program, stage))
        for atom in atoms
    }
    homes = [
        (home, atom)
        for atom, places in program.homes.items()
        for home in places
        if home.buffer in ("d", "kept", "hoisted")
    ]
    for home, atom in homes:
        for other_home, other in homes:
            left, right = sorted([(home.column, atom), (other_home.column, other)])
            overlap = home.buffer == other_home.buffer and left[0] + program.graph.atoms[left[1]].width > right[0]
            if other != atom and overlap and made[atom] <= made[other]:
                assert _last_read(program, stages, atom) <= made[other]


def _made(program, stage):
    for loop in program.stages[stage]:
        yield [*loop.atoms, *(slot for product in loop.products for slot in product.slots)]


def _last_read(program, stages, atom):
    last = (-1, -1)
    for s, stage in enumerate(stages):
        for n, loop in enumerate(program.stages[stage]):
            inputs = [read for product in loop.products for read in product.inputs]
            inputs += [
                read
                for made in (*loop.atoms, *loop.scalars, *loop.reductions)
                for read in program.graph.atoms[made].args
            ]
            fresh = atom in [*loop.atoms, *(slot for product in loop.products for slot in product.slots)]
            if any(read.atom == atom for read in inputs) and not fresh:
                last = (s, n)
    return last


def golden(name, text):
    """Compare with a file byte for byte; with CELLWRIGHT_GOLDEN=1 in the environment, write the file instead."""
    path = GOLDEN / name
    if os.environ.get("CELLWRIGHT_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_the_plan_of_an_lstm_reads_as_pseudocode():
    """CELLWRIGHT_GOLDEN=1 in the environment writes tests/golden/lstm.txt anew, to be read in the diff."""
    golden("lstm.txt", str(planned(LSTM(3, 5))) + "\n")


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm", "leaky-rnn"])
def test_the_source_is_what_it_was(name):
    """CELLWRIGHT_GOLDEN=1 in the environment writes tests/golden/*.c anew, to be read in the diff."""
    cell = LIBRARY[name](3, 5)
    golden(f"{name}.c", render(planned(cell), repr(cell).splitlines()[0]).text)


@pytest.mark.parametrize("name", ["gru-reset-before", "lstm"])
def test_the_kernels_for_a_gpu_are_what_they_were(name):
    """CELLWRIGHT_GOLDEN=1 in the environment writes tests/golden/*.triton anew, to be read in the diff."""
    cell = LIBRARY[name](3, 5)
    golden(f"{name}.triton", kernels(Values(planned(cell)), repr(cell).splitlines()[0]).text)


@pytest.mark.parametrize("name", CORE)
def test_the_source_is_the_same_for_any_weights(name):
    one, other = (render(planned(LIBRARY[name](3, 5)), "a cell").text for _ in range(2))
    assert one == other


def test_a_layer_shows_its_plan_and_its_source():
    cell = cw.cells.GRU(3, 5)
    layer = cw.Recurrent(cell, backend="c")
    assert str(planned(cell, needs_x=True)).splitlines()[0].strip() in layer.explain()
    assert layer.source().startswith("// GRU(3, 5)")
