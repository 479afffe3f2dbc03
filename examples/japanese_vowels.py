"""Who said it? A BiLSTM on real ragged sequences: Japanese Vowels, 9 speakers, 270 to learn from, 370 to test.

    pip install --no-deps aeon           # its package carries the data; none of its code is run
    python examples/japanese_vowels.py   # at least 97% of the test set in well under a minute

Data: Kudo, Toyama and Shimbo (1999), Pattern Recognition Letters 20, from the UEA archive: 12 cepstral coefficients of
two vowels, 7 to 29 steps long.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import cellwright as cw

Set = tuple[list[Tensor], Tensor]  # sequences (T, 12) of their own lengths, speakers (N,)


def main(epochs: int = 60) -> float:
    """Train, and give the share of the test set that is wrong."""
    torch.manual_seed(0)
    (train, speakers), (test, wanted) = read("TRAIN"), read("TEST")
    mean, spread = torch.cat(train).mean(0), torch.cat(train).std(0)
    train, test = ([(x - mean) / spread for x in one] for one in (train, test))
    model = Speaker(12, 64, 9)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.05)
    batches = 9
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=epochs * batches)
    for _ in range(epochs):
        for rows in torch.randperm(len(train)).chunk(batches):
            x = pack_sequence([train[row] + 0.1 * torch.randn_like(train[row]) for row in rows], enforce_sorted=False)
            loss = nn.functional.cross_entropy(model(x), speakers[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        found = model(pack_sequence(test, enforce_sorted=False)).argmax(1)
    wrong = (found != wanted).double().mean().item()
    print(f"{1 - wrong:.1%} of {len(test)} test sequences are right, after {epochs} epochs")
    return wrong


class Speaker(nn.Module):
    """A BiLSTM whose last states, one from each end, tell the class."""

    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.lstm = cw.LSTM(inputs, hidden, bidirectional=True)  # torch.nn.LSTM's name, weights and results
        self.dropout, self.out = nn.Dropout(0.5), nn.Linear(2 * hidden, classes)

    def forward(self, x: PackedSequence) -> Tensor:
        _, (h, _) = self.lstm(x)  # (2, B, H): each after its sequence's own end
        return self.out(self.dropout(h.transpose(0, 1).flatten(1)))


def read(part: str) -> Set:
    """A part of the data, from the package that carries it."""
    found = importlib.util.find_spec("aeon")
    if found is None or found.origin is None:
        sys.exit("the data lie in the package aeon; it is not installed; pip install --no-deps aeon")
    path = Path(found.origin).parent / "datasets" / "data" / "JapaneseVowels" / f"JapaneseVowels_{part}.ts"
    lines = [line for line in path.read_text().splitlines() if line and line[0] not in "#@"]
    rows = [line.split(":") for line in lines]  # 12 dimensions, then the speaker, 1 to 9
    xs = [torch.tensor([[float(v) for v in dim.split(",")] for dim in row[:-1]]).T for row in rows]
    return xs, torch.tensor([int(row[-1]) - 1 for row in rows])


if __name__ == "__main__":
    main()
