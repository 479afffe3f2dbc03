"""The page on shipping does what it says."""

import re
from pathlib import Path

import torch

import cellwright

PAGE = Path(cellwright.__file__).parent.parent / "docs" / "shipping.md"


def test_the_code_of_the_page_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CELLWRIGHT_CFLAGS", "-O1")
    space = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(code, space)
    assert "  lengths (B) int64" in capsys.readouterr().out
    layer, x, lengths = (space[name] for name in ("layer", "x", "lengths"))
    layer.backend = "eager"
    with torch.no_grad():
        y, h = layer(torch.from_numpy(x), lengths=lengths)
    assert abs(torch.from_numpy(space["y"]) - y).max() < 1e-5
    assert abs(torch.from_numpy(space["h"]) - h).max() < 1e-5
    assert space["y"].shape == (3, 35, 32)
