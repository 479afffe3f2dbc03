"""Two processes under torchrun train what one trains with the same whole batch."""

import json
import signal
import socket
import subprocess
import sys
import time

import pytest

from cellwright.text.checkpoint import load_checkpoint
from tests.text.helpers import command, metrics, small_flags


def launcher():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return (
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-addr",
        "127.0.0.1",
        "--master-port",
        str(port),
    )


@pytest.mark.parametrize("flags", [{}, {"batches": "random", "cell": "gru", "average": 0.0, "num_layers": 2}])
def test_two_processes_are_one(flags, call, tmp_path):
    options = ["train", "python-docs", *small_flags(**flags), "--out"]
    assert call(*options, tmp_path / "one")[0] == 0
    together = command(*options, tmp_path / "two", launcher=launcher())
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("epoch   1/3") == 1, "only the first process speaks"
    assert "2 processes" in together.stdout
    for one, two in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        for name in ("train_perplexity", "val_perplexity", "gradient_norm"):
            assert two[name] == pytest.approx(one[name], rel=1e-5), name


def test_stopped_together_and_resumed_alone(call, tmp_path):
    options = ["train", "python-docs", *small_flags(), "--out"]
    assert call(*options, tmp_path / "one")[0] == 0
    stopped = command(*options, tmp_path / "two", "--stop-after", "1", launcher=launcher())
    assert stopped.returncode == 0, stopped.stderr
    assert call("train", "--resume", tmp_path / "two")[0] == 0
    last = [metrics(tmp_path / name)[-1]["train_perplexity"] for name in ("one", "two")]
    assert last[1] == pytest.approx(last[0], rel=1e-5)


def test_a_batch_that_cannot_be_shared_is_refused_by_all(tmp_path):
    done = command("train", "python-docs", *small_flags(batch_size=3), "--out", tmp_path / "run", launcher=launcher())
    assert done.returncode != 0
    assert "batch_size is shared out equally among 2 processes; got batch_size=3; write a multiple of 2" in done.stderr
    assert not (tmp_path / "run").exists()


def test_stopped_together_in_the_middle_of_an_epoch(call, tmp_path):
    """Both get the signal at moments of their own, stop after the same step, and one goes on alone."""
    options = ["train", "python-docs", *small_flags(max_tokens=60_000, epochs=2), "--out"]
    assert call(*options, tmp_path / "one")[0] == 0
    flags = [sys.executable, *launcher(), "-m", "cellwright", *map(str, options), str(tmp_path / "two")]
    with subprocess.Popen(flags, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "two" / "last.safetensors").exists():
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=100)
    batch = load_checkpoint(tmp_path / "two" / "last.safetensors", "training")[1]["batch"]
    assert 0 < batch < 540, "stopped in the middle"
    assert call("train", "--resume", tmp_path / "two")[0] == 0
    for one, two in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert two["train_perplexity"] == pytest.approx(one["train_perplexity"], rel=1e-5)


def test_compare_speaks_and_writes_once(tmp_path):
    flags = [
        "compare",
        "rnn",
        "gru",
        "--text",
        "python-docs",
        *small_flags(epochs=1),
        "--json",
        "--out",
        tmp_path / "c",
    ]
    done = command(*flags, launcher=launcher())
    assert done.returncode == 0, done.stderr
    assert [row["cell"] for row in json.loads(done.stdout)["cells"]] == ["rnn", "gru"]


def test_what_fails_on_the_first_process_fails_on_all(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = command("train", "python-docs", *small_flags(), "--out", tmp_path / "file" / "run", launcher=launcher())
    assert done.returncode != 0
    assert done.stderr.count("cellwright: results need a directory that can be written") == 2
    assert "Connection closed" not in done.stderr
