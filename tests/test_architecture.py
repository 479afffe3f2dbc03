"""The house stands: folders import only from above, public names and command-line flags are the listed ones."""

import ast
import json
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import typer

import cellwright
from cellwright.cli import app

PACKAGE = Path(cellwright.__file__).parent
ORDER = [
    "errors",
    "cache",
    "figures",
    "cells",
    "step",
    "program",
    "kernels",
    "layers",
    "probe",
    "text",
    "ship",
    "cli",
    "__main__",
]
PUBLIC = [
    *("GRU", "LSTM", "RNN", "Cell", "Recurrent", "__version__", "adapt", "cells", "detached", "draw", "errors"),
    *("export_onnx", "export_pt2", "from_keras", "from_torch", "gate_behaviour", "gradient_flow", "parameter_table"),
    *("record", "shaded", "to_keras", "to_torch", "track", "truncated"),
]
FLAGS = Path(__file__).parent / "golden" / "flags.json"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imports(path):
    """Every module of ours that a file imports, with whether the import is at the top of the file."""
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cellwright"):
            yield node.module, id(node) in top
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names if alias.name.startswith("cellwright"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_folder_imports_only_from_itself_and_from_those_above(path):
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module, at_top in imports(path):
        there = module.split(".")[1] if module != "cellwright" else None
        if there is not None:
            assert ORDER.index(there) <= ORDER.index(here), f"{path} imports {module}"
        assert at_top, f"{path} hides an import of {module}"


def test_no_files_import_each_other_in_a_circle():
    graph = {}
    for path in MODULES:
        name = ".".join(("cellwright", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        graph[name] = {module for module, _ in imports(path)}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError, naming the circle


def test_every_file_says_in_its_first_line_what_it_is():
    for path in PACKAGE.rglob("*.py"):
        assert path.read_text().startswith('"""'), path


def test_public_names_are_the_listed_ones():
    assert cellwright.__all__ == PUBLIC
    assert all(hasattr(cellwright, name) for name in PUBLIC)


def test_flags_of_the_command_line_are_the_frozen_list():
    commands = typer.main.get_command(app).commands
    flags = {name: sorted(flag for p in one.params for flag in p.opts) for name, one in commands.items()}
    assert flags == json.loads(FLAGS.read_text()), "a new flag is a promise: add it to tests/golden/flags.json"
