"""A forecast: how many sunspots next year? A GRU learns from 1700 to 1959 and is asked about 1960 to 2008.

    pip install --no-deps statsmodels   # its package carries the data; none of its code is run
    python examples/sunspots.py         # a fifth closer, at least, than saying "as this year"; a few seconds

Data: yearly mean sunspot numbers, SILSO World Data Center, Royal Observatory of Belgium.
"""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import cellwright as cw

FIRST_ASKED = 1960


def main(epochs: int = 300) -> float:
    """Train, and give the error of the forecast as a share of that of the plain one."""
    torch.manual_seed(0)
    years, counts = read()
    x = (counts / 100).sqrt().view(-1, 1, 1)  # (T, 1, 1); the root makes large and small years scatter alike
    cut = years.index(FIRST_ASKED)
    model = Forecast(24)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=epochs)
    for _ in range(epochs):
        seen = x[:cut] + 0.05 * torch.randn(cut, 16, 1)  # (T, 16, 1): 16 noisy histories
        loss = nn.functional.mse_loss(model(seen[:-1])[10:], x[11:cut].expand(-1, 16, -1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    stream = model.gru.stream()  # year by year, as the numbers would come in
    with torch.no_grad():
        told = torch.cat([model.out(stream(now)) + now for now in x[:-1]])[:, 0]
    found, wanted, plain = told.clamp_min(0).square()[cut - 1 :] * 100, counts[cut:], counts[cut - 1 : -1]
    ours, theirs = ((one - wanted).square().mean().sqrt().item() for one in (found, plain))
    print(f"{FIRST_ASKED} to {years[-1]}: off by {ours:.1f} spots (root mean square); 'as this year' by {theirs:.1f}")
    return ours / theirs


class Forecast(nn.Module):
    """A GRU that tells by how much the next value differs from this one."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.gru, self.out = cw.GRU(1, hidden), nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(self.gru(x)[0])  # (T, B, 1)


def read() -> tuple[list[int], Tensor]:
    """Years and their numbers of sunspots, from the package that carries them."""
    found = importlib.util.find_spec("statsmodels")
    if found is None or found.origin is None:
        sys.exit("the data lie in the package statsmodels; it is not installed; pip install --no-deps statsmodels")
    path = Path(found.origin).parent / "datasets" / "sunspots" / "sunspots.csv"
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [int(float(row["YEAR"])) for row in rows], torch.tensor([float(row["SUNACTIVITY"]) for row in rows])


if __name__ == "__main__":
    main()
