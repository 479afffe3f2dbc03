"""parameter_table: every weight by gate, and counts that can be checked by hand."""

import pytest

import cellwright as cw
from cellwright.cells import GRU, LSTM, RNN
from cellwright.text.config import load_preset
from cellwright.text.model import LanguageModel


@pytest.mark.parametrize(("cell", "blocks"), [(RNN(3, 5), 1), (GRU(3, 5, reset_after=False), 3), (LSTM(3, 5), 4)])
def test_the_count_is_the_formula(cell, blocks):
    assert cw.parameter_table(cell).count == blocks * (3 * 5 + 5 * 5 + 5)


def test_every_weight_has_its_gate_and_role():
    rows = {row.name: (row.gate, row.role) for row in cw.parameter_table(GRU(3, 5))}
    assert rows["W_xr"] == ("reset gate", "input weight")
    assert rows["W_hz"] == ("update gate", "recurrent weight")
    assert rows["b_n"] == ("candidate", "bias")
    assert rows["b_hn"] == ("candidate", "recurrent bias")


def test_gates_with_overlapping_names_are_told_apart():
    class Two(RNN):
        gates = {"n": "first", "hn": "second"}

        def __init__(self):
            cw.Cell.__init__(self, 3, 5)
            self.add_gates()

    rows = {row.name: (row.gate, row.role) for row in cw.parameter_table(Two())}
    assert rows["b_n"] == ("first", "bias")
    assert rows["b_hn"] == ("second", "bias")
    assert rows["W_hhn"] == ("second", "recurrent weight")


def test_a_whole_model_is_listed_and_what_has_no_gate_says_so():
    model = LanguageModel(load_preset("default").model, 28)
    table = cw.parameter_table(model)
    rows = {row.name: row for row in table}
    assert rows["recurrent.cells.0.W_hf"].gate == "forget gate"
    assert rows["output.weight"].gate == ""
    assert table.count == sum(parameter.numel() for parameter in model.parameters()) == 337_692
    assert str(table).splitlines()[-1].split() == ["all", "337,692"]
