"""The command line as a newcomer meets it: what works, and one line for whatever does not."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.text.helpers import command, metrics, small_flags, small_job


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    small_job(path, epochs=1).train()
    return path


def test_train_tells_what_it_does_and_what_to_do_next(call, tmp_path):
    status, out, err = call("train", "python-docs", *small_flags(), "--out", tmp_path / "run")
    assert (status, err) == (0, "")
    assert "text: python-docs; 3,600 characters to train on, 400 held out; vocabulary of 28" in out
    assert "backend: c; on the CPU it is the fastest" in out
    assert out.count("\nepoch ") == 3
    assert out.endswith(f"let it write: cellwright sample {tmp_path / 'run'}\n")
    files = {"config.json", "vocabulary.json", "model.safetensors", "last.safetensors", "metrics.jsonl", "curves.png"}
    assert {file.name for file in (tmp_path / "run").iterdir()} == files


def test_results_as_json(call, tmp_path):
    status, out, err = call("train", "python-docs", *small_flags(epochs=1), "--out", tmp_path / "run", "--json")
    assert status == 0
    assert json.loads(out)["best"]["epoch"] == 1
    assert "epoch   1/1" in err


def test_a_run_without_a_name_finds_a_free_one(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert call("train", "python-docs", *small_flags(epochs=1))[0] == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["python-docs-lstm", "python-docs-lstm-2"]


def test_without_a_network_the_main_job_still_runs(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = call("train", *small_flags(epochs=1))
    assert status == 0
    assert out.splitlines()[0].endswith("taking python-docs instead")
    config = json.loads((tmp_path / "runs" / "python-docs-lstm" / "config.json").read_text())
    assert config["settings"]["data"]["text"] == ["python-docs"]


def test_sample_writes_on(call, trained):
    status, out, err = call("sample", trained, "--prefix", "The str", "--length", 40)
    assert (status, err) == (0, "")
    assert out.startswith("the str")
    assert len(out) == len("the str") + 40 + 1
    assert call("sample", trained, "--prefix", "the str", "--length", 40)[1] == out
    assert call("sample", trained, "--prefix", "the str", "--length", 40, "--seed", 1)[1] != out
    greedy = [call("sample", trained, "--greedy", "--length", 20, "--seed", seed)[1] for seed in (1, 2)]
    assert greedy[0] == greedy[1]
    value = json.loads(call("sample", trained, "--prefix", "the", "--length", 5, "--json")[1])
    assert value["prefix"] == "the"
    assert len(value["text"]) == 5
    assert "<unk>" not in call("sample", trained, "--length", 2000, "--temperature", 5)[1]


def test_sample_streams_and_survives_a_reader_that_leaves(trained):
    flags = [sys.executable, "-m", "cellwright", "sample", str(trained), "--length", "200000"]
    with subprocess.Popen(flags, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert len(process.stdout.read(30)) == 30  # while it goes on writing
        assert process.poll() is None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


def test_eval_stands_beside_ngrams(call, trained, tmp_path):
    status, out, _ = call("eval", trained, "--json")
    assert status == 0
    value = json.loads(out)
    assert value["tokens"] == 399
    assert value["model"]["perplexity"] == pytest.approx(metrics(trained)[0]["val_perplexity"], rel=1e-6)
    assert [one["order"] for one in value["baselines"]] == [1, 2, 3, 4, 5, 6]
    other = tmp_path / "other.txt"
    other.write_text("The quick brown fox. " * 30)
    status, out, _ = call("eval", trained, other)
    assert status == 0
    assert "this run" in out
    assert "5-gram, Witten-Bell" in out


def test_compare_tables_and_draws(call, tmp_path):
    status, out, _ = call(
        "compare", "rnn", "lstm", "--text", "python-docs", *small_flags(epochs=2), "--out", tmp_path / "c"
    )
    assert status == 0
    rows = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert [row["cell"] for row in rows] == ["rnn", "lstm"]
    assert rows[0]["parameters"] < rows[1]["parameters"]
    assert (tmp_path / "c" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert all(name in out for name in ("rnn", "lstm", "tokens/s", "perplexity"))
    assert len(metrics(tmp_path / "c" / "lstm")) == 2


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    flags = [sys.executable, "-m", "cellwright", "train", "python-docs", *small_flags(epochs=100_000)]
    with subprocess.Popen(
        [*flags, "--out", str(tmp_path / "run")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not (tmp_path / "run" / "last.safetensors").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == ""
    assert (
        out.splitlines()[-1] == f"stopped and saved; go on with: python -m cellwright train --resume {tmp_path / 'run'}"
    )


def test_the_command_is_on_the_path_and_says_its_version():
    assert command("--version").stdout.startswith("cellwright 0.")
    text = command("train", "--help", env={**os.environ, "COLUMNS": "200"}).stdout
    for words in ("Examples:", "--hidden-size", "Units of every recurrent layer.", "--resume"):
        assert words in text


def write(name, content):
    def make(directory):
        path = directory / name
        path.write_bytes(content)
        return path

    return make


def unreadable(directory):
    path = write("secret.txt", b"text")(directory)
    path.chmod(0)
    return path


def pipe(directory):
    os.mkfifo(directory / "pipe")
    return directory / "pipe"


CELL = b"""from cellwright.cells import LSTM, RNN
class A(RNN):
    pass
class B(LSTM):
    pass
"""


ONE_LINE = [
    (["train", "once upon a time " * 30], "a text is a file that exists; got"),
    (["train", pipe], "a text is a file that can be read twice; got"),
    (["train", "python-docs", "--seed", "99999999999999999999"], "seed is at least 0 and below"),
    (["train", "python-docs", "--hidden-size", "1000000000000"], "hidden_size is at least 1 and below"),
    (["train", "python-docs", "--device", "meta"], "got 'meta', which is not on this machine"),
    (
        ["train", "python-docs", "--cell", lambda d: f"{write('exits.py', b'import sys; sys.exit(3)')(d)}:X"],
        "SystemExit in",
    ),
    (["compare", "rnn", "gru-reset-before", "--backend", "torch"], "torch.nn does not have"),
    (["sample", "x" * 5000], "cellwright: "),
    (["train", lambda d: d / "missing.txt"], "a text is a file that exists; got"),
    (["train", lambda d: d], "a text is a file; got the directory"),
    (["train", write("empty.txt", b"")], "which is empty; name another file"),
    (["train", write("binary.txt", b"\x7fELF\0\0")], "with a zero byte at offset 4: a binary file; convert it"),
    (["train", write("latin.txt", b"caf\xe9" * 2000)], "with byte 0xe9 at offset 3; convert it, for example: iconv"),
    (["train", write("short.txt", b"once upon a time")], "needs a text of at least batch_size * steps + steps = 2,112"),
    (
        ["train", write("digits.txt", b"1234567890" * 500)],
        "got a text of which that leaves nothing; write --cleaning none",
    ),
    (
        ["train", "python-docs", "--cell", "lstmm"],
        "docs/cells.md lists them), or path/to/file.py:Class; got 'lstmm'; write lstm or ",
    ),
    (["train", "python-docs", "--cell", "no.py:X"], "names a file that exists; got no.py"),
    (["train", "python-docs", "--preset", "huge"], "a preset is one of d2l, default, large"),
    (["train", "python-docs", "--bidirectional"], "a language model reads forward only"),
    (["train", "python-docs", "--hidden-size", "-5"], "hidden_size is at least 1 and below 1048576; got -5"),
    (["train", "python-docs", "--batch-size", "0"], "batch_size is at least 1 and below 2147483648; got 0"),
    (["train", "python-docs", "--epochs", "many"], "--epochs"),
    (
        ["train", "python-docs", "--device", "abacus"],
        "got 'abacus', which is not on this machine; write --device auto or cpu",
    ),
    (["train", "python-docs", "--backend", "torch", "--cell", "gru-reset-before"], "torch.nn does not have"),
    (["train", "python-docs", "--nonsense"], "No such option: --nonsense"),
    (["train", "--resume", lambda d: d], "a run is a directory that cellwright train wrote"),
    (["sample", lambda d: d / "nowhere"], "has no config.json; check the path"),
    (["eval", lambda d: d / "nowhere"], "has no config.json; check the path"),
    (["nonsense"], "No such command 'nonsense'"),
    (["compare", "rnn", "rnn"], "compare takes each cell once; got rnn, rnn"),
    (["eval"], "RUN"),
]


def short(arguments):
    return " ".join(a if isinstance(a, str) else "FILE" for a in arguments)


@pytest.mark.parametrize(("arguments", "words"), ONE_LINE, ids=[f"{short(a)}-{w[:20]}" for a, w in ONE_LINE])
def test_whatever_is_wrong_is_one_line_and_status_2(arguments, words, call, tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "files").mkdir()
    monkeypatch.chdir(work)
    given = [a(tmp_path / "files") if callable(a) else a for a in arguments]
    status, out, err = call(*given)
    assert status == 2
    assert words in err
    assert err.startswith("cellwright: ")
    assert err.count("\n") == 1
    assert out == ""
    assert list(work.rglob("*")) in ([], [work / "runs"])


def test_cells_of_one_file_are_told_apart(call, tmp_path):
    file = write("cells.py", CELL)(tmp_path)
    names = [f"{file}:A", f"{file}:B"]
    status, out, _ = call(
        "compare", *names, "--text", "python-docs", *small_flags(epochs=1), "--out", tmp_path / "c", "--json"
    )
    assert status == 0
    assert [row["cell"] for row in json.loads(out)["cells"]] == ["cells-A", "cells-B"]
    status, out, _ = call("sample", tmp_path / "c" / "cells-B", "--cell", names[1], "--length", 3)
    assert status == 0


def test_no_arguments_show_the_help(call):
    status, out, err = call()
    assert (status, err) == (0, "")
    assert "compare" in out


@pytest.mark.parametrize(
    ("kind", "prefix", "status", "words"),
    [
        ("word", " ", 2, "a prefix has at least one word; got ' '"),
        ("byte", "\udcff", 2, "a prefix is text; got '\\udcff', which is not UTF-8"),
        ("byte", None, 0, " "),
        ("bpe", None, 0, " "),
        ("word", None, 0, ""),
    ],
)
def test_prefixes_of_other_tokens(kind, prefix, status, words, call, tmp_path):
    flags = small_flags(epochs=1, tokens=kind, vocabulary_size=300)
    assert call("train", "python-docs", *flags, "--out", tmp_path / "run")[0] == 0
    given = [] if prefix is None else ["--prefix", prefix]
    found, out, err = call("sample", tmp_path / "run", "--length", 5, *given)
    assert found == status
    assert words in err if status else out.startswith(words)


def test_eval_knows_what_is_unknown_and_counts_ngrams_of_the_training_part_only(call, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("ab" * 900 + "cd" * 100)  # the held-out tenth is nothing like the rest
    flags = [*small_flags(epochs=1, max_tokens=0), "--out", tmp_path / "run"]
    assert call("train", text, *flags)[0] == 0
    other = tmp_path / "other.txt"
    other.write_text("abxy" * 50)
    assert json.loads(call("eval", tmp_path / "run", other, "--json")[1])["unknown_share"] == 0.5
    found = json.loads(call("eval", tmp_path / "run", "--json")[1])
    assert found["unknown_share"] == 0
    assert found["baselines"][3]["added"]["perplexity"] > 2, "trained on the held-out part it would be nearly 1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prefix", "the 3 cafés?"], "got '3', 'é', '?' in 'the 3 cafés?'; write the prefix without them"),
        (["--prefix", ""], "a prefix has at least one char; got an empty one"),
        (["--temperature", "0"], "temperature is above 0; got 0.0"),
        (["--length", "-1"], "length is at least 0; got -1"),
        (["--top-p", "2"], "top_p is above 0 and at most 1; got 2.0"),
    ],
)
def test_wrong_prefixes_and_rules_of_picking(arguments, words, call, trained):
    status, out, err = call("sample", trained, *arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_a_run_that_exists_is_not_overwritten(call, trained):
    before = {file: file.read_bytes() for file in trained.iterdir()}
    status, _, err = call("train", "python-docs", *small_flags(), "--out", trained)
    assert status == 2
    assert f"a new run needs a directory of its own; got {trained}, which exists; name another with --out" in err
    assert {file: file.read_bytes() for file in trained.iterdir()} == before


def test_a_resumed_run_keeps_its_settings(call, trained):
    status, _, err = call("train", "--resume", trained, "--hidden-size", 3)
    assert status == 2
    assert "a resumed training keeps the settings of its run, except --epochs; got --hidden-size" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_what_may_not_be_read_or_written_is_named(call, tmp_path):
    assert "a text is a file you may read" in call("train", unreadable(tmp_path))[2]
    (tmp_path / "locked").mkdir(mode=0o500)
    status, _, err = call("train", "python-docs", *small_flags(), "--out", tmp_path / "locked" / "run")
    assert status == 2
    assert "results need a directory that can be written" in err


def test_a_place_that_cannot_be_written_is_named(call, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = call("train", "python-docs", *small_flags(), "--out", tmp_path / "file" / "run")
    assert status == 2
    assert "results need a directory that can be written and room on its disk; got" in err


def test_the_picture_of_a_comparison_names_the_text_that_was_read(call, tmp_path, monkeypatch):
    titles = []
    module = sys.modules["cellwright.text.compare"]
    monkeypatch.setattr(module, "draw_comparison", lambda path, runs, title: titles.append(title))
    assert call("compare", "rnn", *small_flags(epochs=1), "--out", tmp_path / "c")[0] == 0
    assert titles == ["rnn on python-docs"]  # The Time Machine was asked for, and is out of reach here
