"""No wrong file is ever written, and what cannot be exported says why."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import cellwright as cw
from cellwright.errors import ExportError, MissingPackageError, RunError
from cellwright.ship import check, export_onnx, export_pt2, operators
from cellwright.ship.body import LACKING, Body
from cellwright.ship.nodes import Nodes
from cellwright.step import capture
from cellwright.step.atoms import COLUMN_BITS, Atom, Read
from cellwright.step.evaluate import FUNCTIONS
from cellwright.step.ops import OPS
from cellwright.text import load_preset
from cellwright.text.model import LanguageModel

DTYPES = (torch.float32, torch.float64)
SMALLEST = {
    ("sigmoid", torch.float32): 2e-8,
    ("sigmoid", torch.float64): 1e-16,
}  # where onnxruntime's is no longer followed
WRONG = "computes what the model does, up to 1e-05; got .* apart by .* at T=.*, B=.*; nothing was written"


def numbers(dtype):
    """Numbers of all sizes (B, 3), and pairs of equal ones."""
    sizes = torch.tensor([0.0, 1e-30, 3e-8, 1e-4, 0.3, 0.5, 1.0, 1.5, 2.5, 7.3, 60.0, torch.inf], dtype=dtype)
    line = torch.cat([sizes, -sizes])
    return torch.stack([line, line.flip(0), line.roll(1)], 1)


def in_onnxruntime(op, arguments, dtype):
    """One operation of the table, on the columns of x, as the exporter writes it."""
    import onnx
    import onnxruntime

    reads = tuple(Read(0, place, 1, 1) for place in range(arguments))
    step = replace(
        capture(cw.cells.RNN(3, 1), torch.float32), atoms=(Atom("x", 3, (), 0), Atom(op, 1, reads)), names={}
    )
    refs = np.array([1 << COLUMN_BITS])
    nodes = Nodes(dtype, ("x", "y"))
    body = Body(nodes, replace(step, states=(refs,), y=None), ("h",), {}, "", "x", ["h"])
    nodes.give(body.columns(refs, "result"), "y")
    graph = nodes.graph("op", [nodes.declare("x", dtype, ("B", 3))], [nodes.declare("y", dtype, ("B", 1))])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    ran = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(ran.run(None, {"x": numbers(dtype).numpy()})[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_every_operation_of_the_table_is_written_in_onnx(op, dtype):
    if op in LACKING and dtype == torch.float64:
        with pytest.raises(ExportError, match=f"onnxruntime has {LACKING[op]} for float32 only; got {op} in float64"):
            in_onnxruntime(op, 1, dtype)
        return
    arguments = next(count for count in (3, 2, 1) if f"{{{count - 1}}}" in OPS[op].onnx)
    wanted = FUNCTIONS[op](*numbers(dtype).split(1, 1)[:arguments]).to(dtype)
    found = in_onnxruntime(op, arguments, dtype)
    close = {"rtol": 1e-6 if dtype == torch.float32 else 1e-13, "atol": SMALLEST.get((op, dtype), 0)}
    torch.testing.assert_close(found, wanted, **close, equal_nan=True)


def break_operator(monkeypatch):
    wrong = operators.OPERATORS["lstm"]._replace(gates=(0, 1, 2, 3))
    monkeypatch.setitem(operators.OPERATORS, "lstm", wrong)


def break_table(monkeypatch):
    monkeypatch.setattr("cellwright.ship.layers.operator_of", lambda cell, dtype: None)
    monkeypatch.setitem(OPS, "tanh", OPS["tanh"]._replace(onnx="Sin({0})"))


@pytest.mark.parametrize("spoil", [break_operator, break_table])
def test_a_wrong_export_is_caught_and_leaves_the_file_before_it(spoil, monkeypatch, tmp_path):
    path, layer = tmp_path / "layer.onnx", cw.Recurrent(cw.cells.LSTM(3, 4), backend="eager")
    export_onnx(layer, path)
    before = path.read_bytes()
    spoil(monkeypatch)
    with pytest.raises(ExportError, match=WRONG):
        export_onnx(layer, path)
    assert path.read_bytes() == before
    with pytest.raises(ExportError, match=WRONG):
        export_onnx(layer, tmp_path / "other.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["layer.onnx"]


def test_a_frozen_length_is_caught(monkeypatch, tmp_path):
    """What PyTorch's own exporter does to some layers: a shape that holds for one length only."""
    ints = Nodes.ints
    monkeypatch.setattr(Nodes, "ints", lambda nodes, *values: ints(nodes, *((1, 1, -1) if 0 in values else values)))
    with pytest.raises(ExportError, match=WRONG):
        export_onnx(cw.LSTM(3, 4, backend="eager"), tmp_path / "layer.onnx")
    assert not list(tmp_path.iterdir())


def test_what_the_tools_raise_is_said_in_words(monkeypatch, tmp_path):
    monkeypatch.setitem(OPS, "tanh", OPS["tanh"]._replace(onnx="Tangent({0})"))
    layer = cw.Recurrent(cw.cells.RNN(3, 4).double(), backend="eager")
    with pytest.raises(
        ExportError, match=r"the checker of ONNX accepts what is exported; got .*Tangent.*; please report"
    ):
        export_onnx(layer, tmp_path / "layer.onnx")


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.2),
        ([0.25, 0.0], [0.0, 0.0], 0.25),
        ([torch.nan, 1.0], [torch.nan, 1.0], 0.0),
        ([torch.nan, 1.0], [1.0, 1.0], torch.inf),
        ([torch.inf, 1.0], [torch.inf, 1.0], 0.0),
        ([torch.inf, 1.0], [2.0, 1.0], torch.inf),
        ([1.0], [1.0, 1.0], torch.inf),
    ],
)
def test_how_far_apart_results_are(one, other, apart):
    assert check._apart(torch.tensor(one), torch.tensor(other)) == pytest.approx(apart)


class Sorted(cw.cells.RNN):
    """A step that no loop knows."""

    def step(self, x, h):
        return super().step(x, h).sort(1)[0]


class Erf(cw.cells.RNN):
    """Without a double in onnxruntime."""

    def step(self, x, h):
        return torch.erf(super().step(x, h))


REFUSED = {
    "a layer of torch.nn": (
        lambda: nn.LSTM(3, 4),
        {},
        r"the language model of a run; got torch\.nn.*LSTM; .*from_torch",
    ),
    "a cell": (lambda: cw.cells.LSTM(3, 4), {}, r"is a cw\.Recurrent, RNN.*; got cellwright.*LSTM; give your cell"),
    "half": (lambda: cw.LSTM(3, 4).half(), {}, r"are float32 or float64; got torch\.float16; .* model\.float\(\)"),
    "sort": (
        lambda: cw.Recurrent(Sorted(3, 4)),
        {},
        r"traced for every row alike; got Sorted: sort is not among .*test_check\.py:\d+\); write that line",
    ),
    "erf": (
        lambda: cw.Recurrent(Erf(3, 4).double()),
        {},
        r"Erf for float32 only; got erf in float64 \(.*test_check\.py:\d+\); export the model in float32",
    ),
    "lengths": (
        lambda: LanguageModel(load_preset("d2l").replace(hidden_size=4).model, 28),
        {"lengths": True},
        r"texts that are all as long; got lengths=True; leave it out, or export its layer",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported_says_why(name, tmp_path):
    make, options, words = REFUSED[name]
    with pytest.raises(ExportError, match=words):
        export_onnx(make(), tmp_path / "model.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_a_program_holds_cells_that_the_loops_run(tmp_path):
    words = r"backend 'c' runs: the loop over time is one operation; got Sorted\(.*sort.*; export it as ONNX, or change"
    with pytest.raises(ExportError, match=words):
        export_pt2(cw.Recurrent(Sorted(3, 4)), tmp_path / "model.pt2")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingPackageError, match=rf"needs the packages onnx and onnxruntime; got .*{package}.*\[onnx\]"
    ):
        export_onnx(cw.LSTM(3, 4), tmp_path / "layer.onnx")


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(RunError, match="results need a directory that can be written"):
        export_onnx(cw.LSTM(3, 4), tmp_path / "nowhere" / "layer.onnx")
