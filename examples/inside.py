"""How far gradients reach before training: RNN, GRU and LSTM, forget bias and chrono initialisation, beside what is
predicted; with a folder's name, its pictures too: python examples/inside.py [docs/pictures]
"""

import math
import sys
from pathlib import Path

import torch

import cellwright as cw
from cellwright.cells import init
from cellwright.probe import draw, gradient_flow
from cellwright.probe.pictures import draw_flow

T, B, I, H = 60, 2, 8, 32


def small(cell):
    """The cell with weights so small that its gates follow their biases, as in Dive into Deep Learning."""
    cw.cells.initialise(cell, "tutorial", H)
    return cell


def cells():
    """The cells by what the table calls them, and by what a step is predicted to multiply the gradient of c."""
    yield "RNN", cw.cells.RNN(I, H), None
    yield "GRU", cw.cells.GRU(I, H), None
    yield "LSTM", cw.cells.LSTM(I, H), None
    for bias in (0.0, 1.0, 3.0):
        forgets = init.forget_bias(small(cw.cells.LSTM(I, H)), bias)
        yield f"LSTM, forget bias {bias:g}", forgets, 1 / (1 + math.exp(-bias))  # f = sigmoid(bias)
    lasting = init.chrono(small(cw.cells.LSTM(I, H)), T)
    yield f"LSTM, chrono {T}", lasting, torch.sigmoid(lasting.b_f).max().item()


def main(folder=None):
    torch.manual_seed(0)
    x, flows, worst = torch.randn(T, B, I), {}, 0.0
    print(f"{'':<22}{'a step multiplies by':>22}{'predicted':>12}{f'after {T} steps':>18}")
    for name, cell, predicted in cells():
        flow = flows[name] = gradient_flow(cell, x, dtype=torch.float64)[0]
        state = cell.state[-1]
        rate = flow.rate(state if state in flow.log_norms else "all states")
        shown = "" if predicted is None else f"{predicted:.3f}"
        print(f"{name:<22}{rate:>22.3f}{shown:>12}{flow.norms()[-1].mean():>18.1e}")
        worst = max(worst, 0 if predicted is None else abs(rate - predicted))
    print(f"\nthe bound of the RNN: {flows['RNN'].bound(1):.3f} a step\n")
    print(flows["LSTM"])
    if folder is not None:
        path = Path(folder)
        draw_flow(path / "gradients.png", flows, "gradients through time, as layers are made")
        (path / "lstm.svg").write_text(draw(cw.cells.LSTM(28, 256)).svg())
        (path / "lstm-backward.svg").write_text(draw(cw.cells.LSTM(28, 256), backward=True).svg())
        (path / "gru.svg").write_text(draw(cw.cells.GRU(28, 256)).svg())
    return worst


if __name__ == "__main__":
    main(*sys.argv[1:2])
