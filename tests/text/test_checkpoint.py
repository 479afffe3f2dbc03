"""Checkpoints under attack: cut short, forged, of another version, killed while saving, on a full disk."""

import json
import os
import random
import signal
import struct
import subprocess
import sys
import time

import pytest
import safetensors.torch
import torch

from cellwright.errors import CellwrightError, RunError, SettingError, TextError
from cellwright.text.checkpoint import KEY, load_checkpoint, save_checkpoint
from cellwright.text.files import write_atomically
from cellwright.text.run import Run
from tests.text.helpers import command, go_on, metrics, small_flags, small_job, without_time

KILLS = int(os.environ.get("CELLWRIGHT_KILLS", "12"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    small_job(path, epochs=1).train()
    return path


@pytest.fixture
def run(trained, tmp_path):
    """A fresh copy of a trained run."""
    for file in trained.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return Run(tmp_path)


def test_the_same_tensors_give_the_same_bytes(tmp_path):
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2).T}
    for name in ("one", "two"):
        save_checkpoint(tmp_path / name, "model", tensors, {"epoch": 1, "best": 2.0})
        tensors = dict(reversed(tensors.items()))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    loaded, values = load_checkpoint(tmp_path / "one", "model")
    assert torch.equal(loaded["b"], tensors["b"])
    assert values == {"epoch": 1, "best": 2.0}


def test_cut_short_at_any_place_it_is_refused(run):
    whole = run.weights.read_bytes()
    for length in [0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1]:
        run.weights.write_bytes(whole[:length])
        with pytest.raises(RunError, match="a checkpoint is a whole safetensors file"):
            run.model()


def test_random_damage_never_gives_anything_but_one_line(run):
    whole = bytearray(run.weights.read_bytes())
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    generator = random.Random(0)
    lines = []
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[generator.randrange(header)] = generator.randrange(256)
        run.weights.write_bytes(damaged)
        try:
            run.model()
        except CellwrightError as error:
            lines.append(str(error))
    assert len(lines) > 150
    assert not any("\n" in line for line in lines)


def forge(path, change_tensors=None, change_note=None):
    with safetensors.safe_open(path, "pt") as file:
        note = json.loads(file.metadata()[KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if change_tensors:
        change_tensors(tensors)
    if change_note:
        change_note(note)
    safetensors.torch.save_file(tensors, path, {KEY: json.dumps(note)})


FORGERIES = [
    (lambda t: t.pop("output.bias"), None, "tensor 'output.bias' is missing"),
    (lambda t: t.update(extra=torch.ones(1)), None, "tensor 'extra' is unknown"),
    (lambda t: t.update({"output.bias": torch.ones(3)}), None, "'output.bias' is (3,) torch.float32, not (28,)"),
    (lambda t: t.update({"output.bias": torch.ones(28).double()}), None, "is (28,) torch.float64, not"),
    (lambda t: t["output.bias"].fill_(float("nan")), None, "'output.bias' holds values that are not finite numbers"),
    (None, lambda n: n.update(version=2), "reads checkpoints of version 1; got version 2"),
    (None, lambda n: n.update(kind="training"), "it is of kind 'training', not 'model'"),
    (None, lambda n: n.pop("values"), "it is not from Cellwright"),
]


@pytest.mark.parametrize(("tensors", "note", "words"), FORGERIES, ids=[words for *_, words in FORGERIES])
def test_a_forged_checkpoint_is_refused(tensors, note, words, run):
    forge(run.weights, tensors, note)
    with pytest.raises(RunError) as caught:
        run.model()
    assert words in str(caught.value)


TRAINING_FORGERIES = [
    (lambda t: t.pop("optimizer.0.exp_avg"), None, "tensor '0.exp_avg' is missing"),
    (lambda t: t.update({"optimizer.0.exp_avg": torch.ones(2)}), None, "'0.exp_avg' is (2,)"),
    (lambda t: t.pop("average.n_averaged"), None, "tensor 'n_averaged' is missing"),
    (lambda t: t.update({"random.cpu": torch.zeros(5, dtype=torch.uint8)}), None, "'cpu' is (5,) torch.uint8, not"),
    (lambda t: t.pop("random.cpu"), None, "'cpu' is (0,) torch.float32, not"),
    (lambda t: t["random.cpu"].zero_(), None, "the state of the random generators"),
    (lambda t: t.update({"carried.0": torch.zeros(1, 4, 16).double()}), None, "'0' is (1, 4, 16) torch.float64, not"),
    (lambda t: t.update({"carried.0": torch.zeros(1, 4, 16)}), None, "tensor '1' is missing"),
    (lambda t: t.update({"extra.0": torch.zeros(1)}), None, "tensor 'extra.0' is unknown"),
    (None, lambda n: n["values"].update(epoch=-1), "the progress in a checkpoint says"),
    (None, lambda n: n["values"].update(epoch="1"), "the progress in a checkpoint says"),
    (None, lambda n: n["values"].update(batch=10**9), "the progress in a checkpoint says"),
    (None, lambda n: n["values"].pop("best"), "the progress in a checkpoint says"),
]


@pytest.mark.parametrize(("tensors", "note", "words"), TRAINING_FORGERIES)
def test_a_training_is_not_resumed_from_a_forged_checkpoint(tensors, note, words, run):
    forge(run.last, tensors, note)
    with pytest.raises(RunError) as caught:
        go_on(run.path, epochs=2)
    assert words in str(caught.value)


def test_a_forged_size_costs_no_memory_and_other_configs_are_refused(run):
    path = run.path / "config.json"
    config = json.loads(path.read_text())
    config["settings"]["model"]["hidden_size"] = 60_000
    path.write_text(json.dumps(config))
    with pytest.raises(RunError, match="60000"):
        run.model()
    with pytest.raises(RunError, match="60000"):
        go_on(run.path, epochs=2)
    for text, kind, words in [
        ("{", RunError, "config.json is JSON"),
        ("[]", RunError, "config.json is JSON"),
        (json.dumps({**config, "version": 7}), RunError, "reads runs of version 1; got version 7"),
        (json.dumps({"version": 1, "settings": {}}), SettingError, "missing or unknown: \\[data\\]"),
        (json.dumps({"version": 1}), SettingError, "missing or unknown"),
    ]:
        path.write_text(text)
        with pytest.raises(kind, match=words):
            run.model()


def test_missing_files_are_named(run):
    (run.path / "vocabulary.json").unlink()
    with pytest.raises(TextError, match=r"vocabulary\.json"):
        run.model()
    run.weights.unlink()
    with pytest.raises(RunError, match=r"model\.safetensors; let the run finish an epoch first"):
        load_checkpoint(run.weights, "model")
    with pytest.raises(RunError, match="has no config"):
        Run(run.path / "nowhere").settings()


def test_killed_at_any_moment_while_it_saves_the_training_goes_on(tmp_path):
    """Children save all the time and are killed with SIGKILL; every time the run resumes, and ends like any other."""
    small_job(tmp_path / "whole", epochs=2).train()
    path = tmp_path / "run"
    small_job(path, epochs=2).train(stop_after=1)
    generator = random.Random(0)
    for _ in range(KILLS):
        child = os.fork()
        if child == 0:
            try:
                torch.set_num_threads(1)
                job = go_on(path)
                while True:
                    job.trainer.save()
                    save_checkpoint(job.run.weights, "model", job.trainer.best_model.state_dict(), {"epoch": 1})
                    job.run.add_metrics({"epoch": 2, "half": "written"})
            finally:
                os._exit(1)
        time.sleep(generator.uniform(0.3, 0.6))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the child was still saving"
        assert go_on(path).trainer.progress.epoch == 1
    go_on(path).train()
    assert not [file.name for file in path.iterdir() if file.name.startswith(".")], "nothing unfinished lies about"
    assert (path / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert without_time(metrics(path)) == without_time(metrics(tmp_path / "whole"))


def test_a_last_line_that_a_crash_cut_short_is_left_out(run):
    with run.metrics.open("a") as file:
        file.write('{"epoch": 2, "train_per')
    assert [line["epoch"] for line in run.read_metrics()] == [1]
    go_on(run.path, epochs=2)
    assert run.metrics.read_text().count("\n") == 1


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    """A limit on the size of files stands for a full disk: the operating system refuses to write on."""
    trained = command("train", "python-docs", *small_flags(epochs=1), "--out", tmp_path / "run")  # which compiles, too
    assert trained.returncode == 0, trained.stderr
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000));"
        "from cellwright.cli import main; main(sys.argv[1:])"
    )
    for arguments in (
        ["--resume", tmp_path / "run", "--epochs", "2"],
        ["python-docs", *small_flags(), "--out", tmp_path / "new"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", limited, "train", *map(str, arguments)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, done.stderr
        assert (
            "results need a directory that can be written and room on its disk; got File too large for" in done.stderr
        )
        assert len(done.stderr.strip().splitlines()) == 1
    after = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    for name in ("model.safetensors", "last.safetensors", "vocabulary.json", "curves.png"):
        assert after[name] == before[name]
    assert after.keys() == before.keys(), "nothing unfinished lies about"
    go_on(tmp_path / "run", epochs=2).train()


def test_what_cannot_be_written_leaves_no_trace(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="Not a directory"):
        write_atomically(tmp_path / "file" / "x", b"")
    with pytest.raises(RunError, match="No such file or directory"):
        write_atomically(tmp_path / "missing" / "x", b"")
    (tmp_path / "taken").mkdir()
    with pytest.raises(RunError, match="Is a directory"):
        write_atomically(tmp_path / "taken", b"content")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]
