"""Vanishing gradients: RNN, GRU and LSTM before and after the same training on the same text, and the bound of the RNN:
python examples/vanishing.py [STEPS] [TEXT] [PICTURE.png]
"""

import pydoc_data.topics
import sys
from pathlib import Path

import torch
from torch import nn

import cellwright as cw
from cellwright.probe import gradient_flow
from cellwright.probe.pictures import draw_flow

T, B, H = 32, 16, 32
LAGS = 40
CELLS = {"RNN": cw.cells.RNN, "GRU": cw.cells.GRU, "LSTM": cw.cells.LSTM}


def letters(text):
    """The text in 27 letters as numbers: a to z, and 0 for all else."""
    codes = torch.tensor([max(0, ord(letter) - 96) if letter.isascii() else 0 for letter in text.lower()])
    return torch.where(codes > 26, 0, codes)


def train(layer, ids, steps):
    """Predict every next letter from those before, with clipped gradients; the loss in the end, in bits a letter."""
    head = nn.Linear(H, 27)
    weights = [*layer.parameters(), *head.parameters()]
    optimizer, dice = torch.optim.Adam(weights, 0.01), torch.Generator().manual_seed(0)
    loss = torch.zeros(())
    for _ in range(steps):
        starts = torch.randint(len(ids) - T - 1, (B,), generator=dice)
        batch = torch.stack([ids[start : start + T + 1] for start in starts], 1)  # (T + 1, B)
        y, _ = layer(nn.functional.one_hot(batch[:-1], 27).float())  # (T, B, H)
        loss = nn.functional.cross_entropy(head(y).flatten(0, 1), batch[1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    return loss.item() / torch.tensor(2.0).log().item()


def main(steps="30", text=None, picture=None):
    torch.manual_seed(0)
    ids = letters(Path(text).read_text() if text else "".join(pydoc_data.topics.topics.values()))
    x = nn.functional.one_hot(ids[: LAGS * 4].view(4, LAGS).T, 27).float()  # (LAGS, 4, 27)
    flows, above = {}, 0.0
    print(f"{'':<6}{'a step multiplies by':>30}{f'after {LAGS} steps':>28}{'bits':>8}")
    for name, cell in CELLS.items():
        layer, bits = cw.Recurrent(cell(27, H)), 0.0
        for when in ("before", "after"):
            if when == "after":
                bits = train(layer, ids, int(steps))
            flow = flows[f"{name} {when} training"] = gradient_flow(layer, x, dtype=torch.float64, paths_at=0)[0]
            if flow.log_bound is not None:  # the norms of its Jacobian products never pass it
                above = max(above, *(flow.norms()[k].max().item() / flow.bound(k) - 1 for k in range(LAGS + 1)))
        rates = [flows[f"{name} {when} training"] for when in ("before", "after")]
        state = {"LSTM": "c"}.get(name)
        shown = " -> ".join(f"{flow.rate(state or 'all states'):.3f}" for flow in rates)
        ends = " -> ".join(f"{flow.norms(state or 'all states')[-1].mean():.1e}" for flow in rates)
        print(f"{name:<6}{shown:>30}{ends:>28}{bits:>8.2f}")
    if picture is not None:
        draw_flow(Path(picture), flows, f"gradients through time, before and after {steps} steps of the same training")
    return above


if __name__ == "__main__":
    main(*sys.argv[1:])
