"""Language models as files: they stream, carry their vocabulary, run without Cellwright; programs of torch.export."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

import cellwright as cw
from cellwright.cells import LIBRARY
from cellwright.cli import main
from cellwright.ship import Exported, export_onnx, export_pt2, export_run
from cellwright.ship.signature import signature_of
from cellwright.ship.stack import evaluated
from cellwright.text import Run, load_preset
from cellwright.text.corpus import KINDS
from cellwright.text.model import LanguageModel
from tests.ship.files import operators, run, session
from tests.text.helpers import small_job

VOCABULARY = 11
MODELS = {
    "one-hot": {"embedding_size": 0},
    "tied": {"embedding_size": 6, "tied": True},
    "deep": {"embedding_size": 5, "num_layers": 2},
    "scan": {"embedding_size": 5, "cell": "other"},
}


@pytest.fixture(autouse=True)
def compiled_quickly(monkeypatch):
    monkeypatch.setenv("CELLWRIGHT_CFLAGS", "-O1")


class Other(cw.Cell):
    """A cell that has no operator."""

    gates = {"h": "hidden state"}

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.add_gates()

    def step(self, x, h):
        h = 0.5 * h + 0.5 * torch.tanh(x @ self.W_xh + h @ self.W_hh + self.b_h)
        return torch.relu(h), h


def language_model(monkeypatch=None, **changes):
    if monkeypatch is not None:
        monkeypatch.setitem(LIBRARY, "other", Other)
    settings = load_preset("default").replace(**{"hidden_size": 6, "backend": "eager", **changes})
    return LanguageModel(settings.model, VOCABULARY).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_language_model_streams_token_by_token(name, dtype, monkeypatch, tmp_path):
    model = language_model(monkeypatch, **MODELS[name]).to(dtype)
    path = export_onnx(model, tmp_path / "model.onnx").path
    standard = name != "scan" and dtype == torch.float32
    assert operators(path) == (["LSTM"] if standard else ["Scan"]) * model.recurrent.num_layers
    tokens = torch.randint(0, VOCABULARY, (7, 3))
    with torch.no_grad():
        wanted, last = model(tokens)
    cell, ran = model.recurrent.first_cell, session(path)
    states = [torch.zeros(model.recurrent.num_layers, 3, size, dtype=dtype) for size in cell.state_sizes]
    for step, scores in zip(tokens, wanted, strict=True):
        found, *states = run(ran, step.unsqueeze(0), *states)
        torch.testing.assert_close(found[0], scores, atol=1e-5, rtol=0)
    for state, end in zip(states, last if isinstance(last, tuple) else (last,), strict=True):
        torch.testing.assert_close(state, end, atol=1e-5, rtol=0)


def test_tied_weights_are_kept_once(tmp_path):
    tied = export_onnx(language_model(**MODELS["tied"]), tmp_path / "tied.onnx").path
    names = [one.name for one in onnx.load(tied).graph.initializer]
    assert "embed.weight" in names
    assert "output.weight" not in names


def test_what_was_exported_is_told():
    signature = signature_of(evaluated(cw.Recurrent(cw.cells.LSTM(3, 4), 2, batch_first=True)), lengths=True)
    told = Exported("layer.onnx", 12345, "ONNX opset 18", signature, 1.5e-7)
    assert str(told).splitlines() == [
        "layer.onnx: 12,345 bytes, ONNX opset 18",
        "inputs",
        "  x (B, T, 3) float32",
        "  h_0 (2, B, 4) float32",
        "  c_0 (2, B, 4) float32",
        "  lengths (B) int64",
        "outputs",
        "  y (B, T, 4) float32",
        "  h_n (2, B, 4) float32",
        "  c_n (2, B, 4) float32",
        "checked against the model at T=1 B=1, T=4 B=3, T=9 B=2: largest difference 1.5e-07",
    ]


def test_a_file_says_what_it_is(tmp_path):
    path = export_onnx(cw.Recurrent(cw.cells.GRU(3, 4), 2), tmp_path / "gru.onnx", metadata={"note": "mine"}).path
    model = onnx.load(path)
    words = {one.key: one.value for one in model.metadata_props}
    assert words == {
        "cellwright": cw.__version__,
        "cell": "GRU(3, 4)",
        "num_layers": "2",
        "bidirectional": "False",
        "note": "mine",
    }
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]
    shapes = {
        one.name: [d.dim_param or d.dim_value for d in one.type.tensor_type.shape.dim] for one in model.graph.input
    }
    assert shapes == {"x": ["T", "B", 3], "h_0": [2, "B", 4]}


# Programs of torch.export.

PROGRAMS = {
    "lstm": lambda: cw.LSTM(3, 4, batch_first=True),
    "gru before": lambda: cw.GRU(3, 4, bidirectional=True, reset_after=False).double(),
    "language model": lambda: language_model(cell="rnn", backend="auto"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs_at_any_length(name, tmp_path):
    model = PROGRAMS[name]().eval()
    path = export_pt2(model, tmp_path / "model.pt2", metadata={"note": "mine"}).path
    extra = {"cellwright.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    assert json.loads(extra["cellwright.json"])["note"] == "mine"
    signature = signature_of(evaluated(model))
    for steps, batch in ((2, 4), (12, 1)):
        inputs = signature.draw(steps, batch)
        for found, wanted in zip(signature.call(program, inputs), signature.call(model, inputs), strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


# The command.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    small_job(path, epochs=1, backend="eager", max_tokens=1500).train()
    return path


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


READER = """
import json, sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
words = session.get_modelmeta().custom_metadata_map
vocabulary = json.loads(words["vocabulary"])["tokens"]
states = {one.name: np.zeros((one.shape[0], 1, one.shape[2]), np.float32) for one in session.get_inputs()[1:]}
text = "the "
for token in text:
    logits, *last = session.run(None, {"tokens": np.array([[vocabulary.index(token)]]), **states})
    states = dict(zip(states, last))
print(json.dumps([words["cell"], words["cleaning"], logits.tolist()]))
assert not {"torch", "cellwright"} & sys.modules.keys()
"""


def test_a_run_is_exported_and_read_by_those_who_know_nothing_of_it(trained, capsys):
    status, out, err = call(capsys, "export", trained)
    assert (status, err) == (0, "")
    assert out.splitlines()[0].startswith(f"{trained / 'model.onnx'}: ")
    assert "  tokens (T, B) int64\n  h_0 (1, B, 16) float32" in out
    assert "largest difference" in out.splitlines()[-1]
    done = subprocess.run(
        [sys.executable, "-c", READER, trained / "model.onnx"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    cell, cleaning, logits = json.loads(done.stdout)
    assert (cell, cleaning) == ("lstm", "letters")
    model, vocabulary = Run(trained).model(), Run(trained).vocabulary()
    ids = torch.tensor([int(one) for one in vocabulary.ids("the ")]).unsqueeze(1)
    np.testing.assert_allclose(logits[0], model(ids)[0][-1].detach(), atol=1e-5)
    kept = session(trained / "model.onnx").get_modelmeta().custom_metadata_map["vocabulary"]
    values = json.loads(kept)
    assert KINDS[values["kind"]].from_dict(values).tokens == vocabulary.tokens


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_other_format_another_place_and_json(trained, tmp_path, capsys):
    path = tmp_path / "small.pt2"
    status, out, _ = call(capsys, "export", trained, "--format", "pt2", "--output", path, "--json")
    told = json.loads(out)
    assert status == 0
    assert (told["file"], told["bytes"]) == (str(path), path.stat().st_size)
    assert told["inputs"] == {"tokens": ["T", "B"], "h_0": [1, "B", 16], "c_0": [1, "B", 16]}
    assert told["difference"] < 1e-5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "tflite"], "a format is onnx or pt2; got 'tflite'; write --format onnx, say"),
        (["--output", "/nowhere/model.onnx"], "results need a directory that can be written"),
        (["--output"], "requires an argument"),
    ],
)
def test_a_mistake_is_one_line(arguments, words, trained, capsys):
    status, out, err = call(capsys, "export", trained, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_what_is_no_run(tmp_path, capsys):
    status, _, err = call(capsys, "export", tmp_path)
    assert status == 2
    assert "a run is a directory that cellwright train wrote" in err


def test_export_run_in_python(trained, tmp_path):
    exported = export_run(Run(trained), tmp_path / "model.onnx")
    assert exported.path == tmp_path / "model.onnx"
    assert exported.size == exported.path.stat().st_size
    assert exported.difference <= 1e-5
