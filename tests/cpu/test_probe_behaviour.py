"""gate_behaviour: the table of regimes, from gates that are set by hand."""

import pytest
import torch

import cellwright as cw
from cellwright.cells import GRU, LSTM, RNN
from cellwright.errors import SettingError
from cellwright.probe import gate_behaviour, record
from cellwright.probe.behaviour import REGIMES


def set_gates(cell, **wanted):
    """Gates that are open or shut whatever comes: large biases and no weights."""
    with torch.no_grad():
        for name, parameter in cell.named_parameters():
            parameter.zero_()
            if name.startswith("b_") and name[2:] in wanted:
                parameter.copy_(torch.tensor(wanted[name[2:]]))
    return cell


def test_each_unit_has_the_regime_of_the_table():
    cell = set_gates(LSTM(2, 4), i=[-9.0, 9, -9, 9], f=[9.0, 9, -9, -9])
    behaviour = gate_behaviour(record(cell, torch.randn(3, 2, 2)))[0]
    assert [REGIMES[k] for k in behaviour.regimes[1, 1].tolist()] == ["remember", "add", "erase", "overwrite"]
    assert behaviour.shares == dict.fromkeys(REGIMES, 0.25)
    assert behaviour.by_unit[REGIMES.index("add")].tolist() == [0, 1, 0, 0]
    assert "units that add most: 1 (100%), 0 (0%), 2 (0%)" in str(behaviour)


def test_a_gru_remembers_or_overwrites():
    cell = set_gates(GRU(2, 2), z=[9.0, -9])
    behaviour = gate_behaviour(record(cell, torch.randn(3, 2, 2)))[0]
    assert [REGIMES[k] for k in behaviour.regimes[0, 0].tolist()] == ["remember", "overwrite"]


def test_what_is_beyond_a_sequence_is_not_counted():
    layer = cw.LSTM(2, 4, 2, forget_bias=9.0)
    recording = record(layer, torch.randn(5, 2, 2), lengths=[5, 1])
    for behaviour in gate_behaviour(recording):
        assert (behaviour.regimes[1:, 1] == -1).all()
        assert behaviour.shares["erase"] + behaviour.shares["overwrite"] == 0
        assert sum(behaviour.shares.values()) == pytest.approx(1)


def test_gates_of_other_names_are_given():
    recording = record(set_gates(LSTM(2, 1), o=[9.0]), torch.randn(3, 2, 2))
    assert gate_behaviour(recording, keep="o")[0].shares["remember"] == 1
    with pytest.raises(SettingError, match=r"from an update gate; got RNN\(2, 3\) with hidden state; write gate_b"):
        gate_behaviour(record(RNN(2, 3), torch.randn(3, 2, 2)))
