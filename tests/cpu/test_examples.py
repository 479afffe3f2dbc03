"""Every example runs, and reaches what it says; so does the code in the README."""

import re
import runpy
from pathlib import Path

import pytest
import torch

import cellwright

ROOT = Path(cellwright.__file__).parent.parent
REACHED = {
    "own_cell.py": 0.1,
    "by_hand.py": 1e-6,
    "graph_module.py": 1e-6,
    "layer_shapes.py": 1e-6,
    "four_behaviours.py": 1e-6,
    "inside.py": 0.05,
    "vanishing.py": 1e-9,
    "lstm_from_modules.py": 1e-6,
    "time_machine.py": 1e-5,
    "japanese_vowels.py": 0.03,
    "tagging.py": 0.03,
    "sunspots.py": 0.8,
}


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_an_example_runs(path, capsys):
    error = runpy.run_path(str(path))["main"]()
    assert error < REACHED[path.name]
    assert capsys.readouterr().out


def test_scratch_and_concise_agree_on_random_batches_and_an_embedding_too(capsys):
    main = runpy.run_path(str(ROOT / "examples" / "time_machine.py"))["main"]
    assert main("python-docs", "1", "16", "random", "embedding") < REACHED["time_machine.py"]


def test_the_code_of_the_readme_runs(capsys):
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    space = {}
    for block in code:
        exec(block, space)
    assert space["y"].shape == (35, 32, 512)
    assert space["y_t"].shape == (1, 256)
    assert "forget gate" in capsys.readouterr().out


def test_the_code_of_the_page_on_cells_runs_and_learns(capsys, monkeypatch, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "write_a_cell.md").read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) < 40
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    space = {}
    exec(code, space)
    assert space["loss"].item() < 0.1
    assert (tmp_path / "minimal_gate.onnx").exists()
    assert "% f" in capsys.readouterr().out


def test_every_file_is_in_the_layout():
    layout = (ROOT / "docs" / "layout.md").read_text()
    for path in (ROOT / "cellwright").rglob("*.py"):
        assert path.name in layout or path.name in ("__init__.py", "__main__.py"), path
