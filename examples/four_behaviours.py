"""Remember, add, erase, overwrite: an LSTM cell's four behaviours, each made by the biases of two gates alone:
python examples/four_behaviours.py
"""

import torch

import cellwright as cw

OPEN, SHUT = 20.0, -20.0
OLD, NEW = 2.0, 0.5  # what the unit holds, and the candidate
BEHAVIOURS = {  # by the biases of input gate and forget gate: what the unit then holds
    "remember": (SHUT, OPEN, OLD),
    "add": (OPEN, OPEN, OLD + NEW),
    "erase": (SHUT, SHUT, 0.0),
    "overwrite": (OPEN, SHUT, NEW),
}


def cell_with(enter, forget):
    """An LSTM of one unit without weights: its gates are their biases, its candidate is NEW."""
    cell = cw.cells.LSTM(1, 1).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.b_i.fill_(enter)
        cell.b_f.fill_(forget)
        cell.b_g.fill_(torch.atanh(torch.tensor(NEW)).item())
    return cell


def main():
    worst, x = 0.0, torch.zeros(1, 1, 1, dtype=torch.float64)
    state = torch.zeros(1, 1, 1, dtype=torch.float64), torch.full((1, 1, 1), OLD, dtype=torch.float64)
    print(f"the unit holds {OLD}, the candidate is {NEW}")
    for name, (enter, forget, expected) in BEHAVIOURS.items():
        recording = cw.record(cw.Recurrent(cell_with(enter, forget), backend="eager"), x, state)
        held, (behaviour,) = recording["c"].item(), cw.gate_behaviour(recording)
        assert behaviour.shares[name] == 1
        print(f"{name:<10} i {recording['i'].item():.3f}  f {recording['f'].item():.3f}  c {held:.6f}")
        worst = max(worst, abs(held - expected))
    return worst


if __name__ == "__main__":
    main()
