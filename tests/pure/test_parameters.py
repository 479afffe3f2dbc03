"""parameter_table: every weight by gate, and counts that can be checked by hand."""

import pytest
import torch

import cellwright as cw
from cellwright.cells import GRU, LSTM, RNN
from cellwright.probe.parameters import STACKED
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


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("library", [cw, torch.nn], ids=["cw", "torch.nn"])
def test_stacked_weights_are_split_by_gate(kind, library):
    layer = getattr(library, kind)(3, 5, 2, bidirectional=True)
    rows, gates = list(cw.parameter_table(layer)), STACKED[kind].gates
    assert sum(row.count for row in rows) == sum(parameter.numel() for parameter in layer.parameters())
    assert len(rows) == 4 * 4 * len(gates)
    for place, (gate, words) in enumerate(gates.items()):
        row = next(row for row in rows if row.name == f"weight_hh_l1_reverse[{gate}]")
        assert (row.gate, row.role, row.shape) == (words, "recurrent weight", (5, 5))
        share = layer.weight_hh_l1_reverse[5 * place : 5 * place + 5]
        assert row.norm == pytest.approx(share.norm().item())


def test_what_is_no_gates_own_stays_whole():
    rows = {row.name: (row.gate, row.role) for row in cw.parameter_table(cw.LSTM(3, 5, proj_size=2, learn_state=True))}
    assert rows["weight_hr_l0"] == ("", "projection")
    assert rows["c0"] == ("", "first state")


def test_norms_of_gradients_are_listed_once_there_are_some():
    layer = cw.LSTM(3, 5, backend="eager")
    assert {row.gradient for row in cw.parameter_table(layer)} == {None}
    assert "gradient" not in str(cw.parameter_table(layer))
    layer(torch.randn(4, 2, 3))[0].sum().backward()
    table = cw.parameter_table(layer)
    row = next(row for row in table if row.name == "bias_ih_l0[g]")
    assert row.gradient == pytest.approx(layer.bias_ih_l0.grad[10:15].norm().item())
    assert str(table).splitlines()[0].split()[-1] == "gradient"


def test_a_cell_of_torch_nn_inside_a_layer_is_split_too():
    rows = [row.name for row in cw.parameter_table(cw.Recurrent(torch.nn.GRUCell(3, 5), backend="eager"))]
    assert rows[:3] == [f"cells.0.module.weight_ih[{gate}]" for gate in "rzn"]
