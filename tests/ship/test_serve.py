"""Serving: what a request gets is what the run says, alone or among others; limits, refusals and the end."""

import asyncio
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import cellwright
from cellwright.cli import main
from cellwright.errors import RunError, SettingError
from cellwright.ship import serve as serve_module
from cellwright.ship.serve_limits import Limits, Rates, RequestError
from cellwright.ship.serve_metrics import Metrics
from cellwright.ship.serve_run import activations, load_runs
from cellwright.ship.serve_sessions import Batch, Scheduler, Session
from cellwright.text.evaluate import evaluate
from cellwright.text.run import Run
from cellwright.text.sample import Picker
from cellwright.text.write import write
from tests.ship.serving import HOST, events, raw, serving, stream, text_of
from tests.text.helpers import ALONE, small_job

TEXT = "the assert statement is a convenient way to insert debugging assertions into a program"


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """A character LSTM, compiled, and a byte GRU of two layers, step by step."""
    where = tmp_path_factory.mktemp("runs")
    small_job(where / "letters", epochs=1, max_tokens=1500).train()
    changes = {"cell": "gru", "tokens": "byte", "cleaning": "none", "num_layers": 2, "backend": "eager"}
    small_job(where / "bytes", epochs=1, max_tokens=600, batch_size=2, **changes).train()
    return [where / "letters", where / "bytes"]


@pytest.fixture(scope="module")
def runs(paths):
    return load_runs(paths)


@pytest.fixture(scope="module")
def at(runs):
    with serving(runs) as found:
        yield found


def written(path, prefix, length, picker, seed=0):
    return "".join(list(write(Run(path), prefix, length, picker, seed, ALONE.device))[1:])


@pytest.mark.parametrize("run", ["letters", "bytes"])
@pytest.mark.parametrize(
    ("asked", "picker"),
    [
        ({"temperature": 0}, Picker(greedy=True)),
        ({"seed": 7.0}, Picker(temperature=0.8)),
        ({"seed": 8, "temperature": 1.5, "top_k": 5, "top_p": 0.9}, Picker(False, 1.5, 5, 0.9)),
    ],
)
def test_a_completion_is_what_write_writes(at, paths, run, asked, picker):
    answer = at.client.post("/api/complete", json={"run": run, "prefix": "the ", "length": 50, **asked}).json()
    path = next(path for path in paths if path.name == run)
    assert answer["text"] == written(path, "the ", 50, picker, int(asked.get("seed", 0)))
    assert (answer["run"], answer["prefix"], answer["tokens"], answer["ended"]) == (run, "the ", 50, "length")


def test_without_a_prefix_it_begins_with_a_blank_and_without_a_run_with_the_first(at, paths):
    for asked in ({}, {"prefix": ""}, {"prefix": None}):
        answer = at.client.post("/api/complete", json={"length": 9, **asked}).json()
        assert answer["run"] == "letters"
        assert answer["text"] == written(paths[0], None, 9, Picker(temperature=0.8))


@pytest.mark.parametrize("run", ["letters", "bytes"])
def test_a_stream_has_the_same_text_piece_by_piece(at, run):
    asked = {"run": run, "prefix": "the ", "length": 60, "seed": 3, "temperature": 1.2}
    whole = at.client.post("/api/complete", json=asked).json()
    found = stream(at.client, **asked)
    assert found[0] == ("start", {"run": run, "prefix": "the "})
    assert found[-1] == ("end", {"tokens": 60, "ended": "length"})
    assert text_of(found) == whole["text"]
    pieces = [data["text"] for name, data in found if not name]
    assert all(len(piece) == 1 for piece in pieces if "\ufffd" not in piece)


def test_texts_written_together_are_those_written_alone(at):
    asked = [
        {"prefix": TEXT[: 3 + 7 * k], "length": 20 + 9 * k, "seed": k, "temperature": (0, 0.5, 1.5)[k % 3]}
        for k in range(7)
    ]
    alone = [text_of(stream(at.client, **one)) for one in asked]
    before = at.service.metrics.text(0)
    together = [""] * len(asked)

    def one(place):
        together[place] = text_of(stream(at.client, **asked[place]))

    threads = [threading.Thread(target=one, args=(place,)) for place in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
    rows, steps = (_metric(at, name) - _read(before, name) for name in ("step_rows", "steps"))
    assert rows > 1.5 * steps  # they did share steps
    assert _metric(at, "tokens") - _read(before, "tokens") == sum(one["length"] for one in asked)


def _read(text, name, labels='run="letters"'):
    found = re.search(rf"^cellwright_{name}_total{{{labels}}} (\S+)$", text, re.M)
    return float(found[1]) if found else 0.0


def _metric(at, name, labels='run="letters"'):
    return _read(at.client.get("/metrics").text, name, labels)


def test_rows_that_join_pause_and_leave_keep_their_states(runs):
    model = runs["letters"].model
    ids = [torch.randint(1, 20, (12,)).tolist() for _ in range(5)]
    sessions = [Session(row, 1, Picker(), 0, Limits()) for row in ids]
    batch = Batch(model)
    found = [[] for _ in ids]
    for members in ((0,), (0, 1, 2), (2, 0), (4, 3, 2, 1, 0), (1,), (3, 1, 4), (0, 1, 2, 3, 4), (2, 0)):
        scores = batch.step([sessions[row] for row in members])
        for row, score in zip(members, scores, strict=True):
            found[row].append(score)
    for row, read in enumerate(ids):
        with torch.no_grad():
            expected, _ = model(torch.tensor(read[: len(found[row])]).unsqueeze(1))
        torch.testing.assert_close(torch.stack(found[row]), expected[:, 0])


def test_a_score_is_that_of_eval(at, runs):
    answer = at.client.post("/api/score", json={"text": TEXT.upper()}).json()
    assert "".join(answer["pieces"]) == TEXT
    assert answer["bits"][0] is None
    run = runs["letters"]
    ids = run.vocabulary.ids(TEXT)
    expected = evaluate(run.model, ids, run.vocabulary.characters(), ALONE.device).bits_per_character
    assert answer["bits_per_character"] == pytest.approx(expected, rel=1e-5)
    assert np.mean(answer["bits"][1:]) == pytest.approx(expected, rel=1e-3)


def test_a_character_of_several_bytes_has_the_surprise_of_all(at):
    answer = at.client.post("/api/score", json={"run": "bytes", "text": "aé€"}).json()
    assert answer["pieces"] == ["a", "é", "€"]
    assert answer["unknown"] == 0
    assert sum(answer["bits"][1:]) == pytest.approx(2 * answer["bits_per_character"], rel=1e-3)
    alone = at.client.post("/api/score", json={"text": "x"}).json()
    assert alone == {"pieces": ["x"], "bits": [None], "bits_per_character": None, "unknown": 0}


def test_activations_obey_the_equations_of_the_cell(at):
    def values(name):
        answer = at.client.post("/api/activations", json={"text": TEXT, "value": name}).json()
        assert answer["pieces"] == list(TEXT)
        return np.array(answer["units"])

    i, f, o, g, c, h = map(values, "ifogch")
    assert i.shape == (16, len(TEXT))
    before = np.concatenate([np.zeros((16, 1)), c[:, :-1]], 1)
    np.testing.assert_allclose(c, f * before + i * g, atol=1e-3)
    np.testing.assert_allclose(h, o * np.tanh(c), atol=1e-3)
    some = at.client.post("/api/activations", json={"text": TEXT, "value": "f", "first_unit": 3, "units": 2}).json()
    np.testing.assert_array_equal(some["units"], f[3:5])
    assert some["first_unit"] == 3


def test_values_of_every_layer_have_names(runs):
    model = runs["bytes"].model
    found = activations(model, [5, 6, 7])
    assert list(found) == [f"layer{layer}.{name}" for layer in (1, 2) for name in "rznh"]
    with torch.no_grad():
        y, _ = model.recurrent(model.embed(torch.tensor([[5], [6], [7]])))
    torch.testing.assert_close(found["layer2.h"], y[:, 0])


def test_runs_say_what_they_are(at):
    letters, in_bytes = at.client.get("/api/runs").json()
    assert (letters["name"], letters["cell"], letters["units"], letters["layers"]) == ("letters", "lstm", 16, 1)
    assert letters["letters_only"]
    assert letters["bits_per_character"] > 1
    assert {"name": "f", "meaning": "forget gate", "units": 16} in letters["values"]
    assert (in_bytes["tokens"], in_bytes["layers"], in_bytes["vocabulary"]) == ("byte", 2, 256)
    assert str(Path.cwd()) not in json.dumps([letters, in_bytes])


REFUSED = [
    ("/api/complete", {"run": "nowhere"}, 404, "a run is one of those served", "'nowhere'", "letters, bytes"),
    ("/api/complete", {"run": "../letters"}, 404, "a run is one of those served", "'../letters'", "letters"),
    ("/api/complete", {"cell": "evil.py:Cell"}, 422, "cell: Extra inputs", "evil.py", "openapi.json"),
    ("/api/complete", {"prefix": "a,b"}, 400, "what the vocabulary of the run has", "','", "without"),
    ("/api/complete", {"prefix": "\ud800"}, 422, "valid string", "ud800", "openapi.json"),
    ("/api/complete", {"prefix": "x" * 4001}, 422, "at most 4000 characters", "xxx", "openapi.json"),
    ("/api/complete", {"length": 0}, 422, "length: ", "0", "openapi.json"),
    ("/api/complete", {"length": 10**30}, 422, "length: ", "1000", "openapi.json"),
    ("/api/complete", {"length": "5"}, 422, "length: ", "'5'", "openapi.json"),
    ("/api/complete", {"temperature": -1}, 422, "temperature: ", "-1", "openapi.json"),
    ("/api/complete", {"seed": -1}, 422, "seed: ", "-1", "openapi.json"),
    ("/api/complete", {"top_p": 0}, 422, "top_p: ", "0", "openapi.json"),
    ("/api/complete", [], 422, "the body: ", "[]", "openapi.json"),
    ("/api/score", {"text": ""}, 422, "text: ", "''", "openapi.json"),
    ("/api/score", {"run": "letters", "text": 5}, 422, "text: ", "5", "openapi.json"),
    ("/api/activations", {"text": "a", "value": "q"}, 400, "one of i, f, o, g", "'q'", "name one"),
    ("/api/activations", {"text": "a", "value": "f", "first_unit": 16}, 400, "units 0 to 15", "16", "begin with"),
]


@pytest.mark.parametrize(("path", "body", "status", "rule", "came", "instead"), REFUSED)
def test_a_refusal_has_three_parts(at, path, body, status, rule, came, instead):
    answer = at.client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    found = answer.json()
    assert (answer.status_code, set(found)) == (status, {"rule", "came", "instead"})
    assert rule in found["rule"]
    assert came in found["came"]
    assert instead in found["instead"]
    assert max(map(len, found.values())) < 400


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nowhere", b"", 404),
        ("GET", "/page/../serve.py", b"", 404),
        ("GET", "/page/%2e%2e/serve.py", b"", 404),
        ("GET", "/docs", b"", 404),
        ("PUT", "/api/runs", b"", 405),
        ("POST", "/api/score", b'{"text": ', 422),
        ("POST", "/api/score", b"\xff\xfe", 422),
        ("POST", "/api/score", b"[" * 60_000, 422),
        ("POST", "/api/score", b'{"text": ' + b"9" * 5000 + b"}", 422),
        ("POST", "/api/score", b"", 422),
    ],
)
def test_requests_that_are_none_are_refused_in_the_same_way(at, method, path, body, status):
    headers = {"content-type": "application/json"}
    answer = at.client.request(method, path, content=body, headers=headers)
    assert answer.status_code in {status, 400} - ({400} if status != 422 else set())
    assert set(answer.json()) == {"rule", "came", "instead"}


def test_an_answer_has_a_largest_size(runs):
    with serving(runs, numbers=100) as at:
        asked = {"text": TEXT, "value": "f"}
        answer = at.client.post("/api/activations", json=asked)
        assert answer.status_code == 400
        assert answer.json()["instead"] == "ask for 1 units"
        assert at.client.post("/api/activations", json={**asked, "units": 1}).status_code == 200


def test_a_request_has_a_largest_size_and_a_longest_time_to_arrive(runs):
    with serving(runs, receive_seconds=0.5, seconds=0.5) as at:
        answer = at.client.post("/api/score", content=b" " * 70_000, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["instead"]) == (413, "send a shorter text")
        head = b"POST /api/score HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n"
        begin = time.monotonic()
        assert raw(at.port, head + b"{").startswith(b"HTTP/1.1 408 ")
        assert raw(at.port, b"GET /health HT") == b""  # dropped
        assert time.monotonic() - begin < 8
        assert at.client.get("/health").json() == {"status": "ok"}


def test_a_client_may_ask_so_often(runs):
    rates = Rates(Limits(rate=2, burst=3, clients=2))
    for _ in range(3):
        rates.take("a", now=0.0)
    with pytest.raises(RequestError, match="at most 2 requests a second"):
        rates.take("a", now=0.1)
    rates.take("b", now=0.1)
    rates.take("a", now=0.7)
    rates.take("c", now=0.7)
    rates.take("d", now=0.7)  # and a is forgotten
    rates.take("a", now=0.7)
    with serving(runs, rate=0.01, burst=3) as at:
        answers = [at.client.get("/health") for _ in range(5)]
        assert [one.status_code for one in answers] == [200, 200, 200, 429, 429]
        assert answers[-1].headers["retry-after"] == "1"
        assert answers[-1].json()["instead"] == "wait a second and try again"


def test_so_many_are_at_work_at_once_and_one_that_leaves_makes_room(runs):
    with serving(runs, sessions=1, waiting_tokens=10) as at:
        body = {"length": 2000, "stream": True}
        with at.client.stream("POST", "/api/complete", json=body) as answer:
            assert answer.status_code == 200
            for path, asked in (("/api/complete", {}), ("/api/complete", body), ("/api/score", {"text": "a"})):
                refused = at.client.post(path, json=asked)
                assert (refused.status_code, refused.json()["came"]) == (429, "one more")
            assert "cellwright_sessions 1\n" in at.client.get("/metrics").text
        _until(lambda: at.client.post("/api/score", json={"text": "a"}).status_code == 200)
        assert "cellwright_sessions 0\n" in at.client.get("/metrics").text
        assert not at.service.schedulers["letters"]._sessions


def _until(happens, seconds=10):
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_request_ends_when_its_time_is_up(runs):
    with serving(runs, seconds=0.05) as at:
        found = stream(at.client, run="bytes", length=2000)
        assert found[-1][1]["ended"] == "time"
        assert 0 < found[-1][1]["tokens"] < 2000
        answer = at.client.post("/api/complete", json={"run": "bytes", "length": 2000}).json()
        assert (answer["ended"], answer["tokens"] < 2000) == ("time", True)


def test_a_text_pauses_while_nobody_fetches_it(runs):
    limits = Limits(waiting_tokens=10)
    metrics = Metrics()
    scheduler = Scheduler("letters", runs["letters"].model, limits, metrics)

    async def course():
        task = asyncio.create_task(scheduler.run())
        session = Session([1], 100, Picker(), 0, limits)
        with scheduler.at_work(session):
            await asyncio.sleep(0.2)
            assert len(await session.fetch()) == 10
            rest = 0
            while tokens := await session.fetch():
                assert len(tokens) <= 10
                rest += len(tokens)
        task.cancel()
        return rest, session.ended

    assert asyncio.run(course()) == (90, "length")


def test_a_step_that_fails_ends_its_texts_and_nothing_else(at, monkeypatch, caplog):
    batch = at.service.schedulers["letters"]._batch
    monkeypatch.setattr(batch, "step", lambda sessions: 1 / 0)
    assert at.client.post("/api/complete", json={"length": 5}).json()["ended"] == "error"
    assert "a step of letters failed" in caplog.text
    monkeypatch.undo()
    assert at.client.post("/api/complete", json={"length": 5}).json()["ended"] == "length"


def test_a_server_on_loopback_answers_to_no_other_name(at, runs):
    for name in ("localhost", "127.0.0.1:80", "[::1]:8000"):
        assert at.client.get("/health", headers={"host": name}).status_code == 200
    for name in ("example.org", "localhost.example.org", ""):
        answer = at.client.get("/health", headers={"host": name})
        assert (answer.status_code, answer.json()["came"]) == (421, repr(name))
    with serving(runs, host="0.0.0.0") as open_at:
        assert open_at.client.get("/health", headers={"host": "example.org"}).status_code == 200


def test_metrics_count(at):
    before = [_metric(at, *one) for one in (("tokens",), ("requests", 'path="other",status="404"'))]
    at.client.post("/api/complete", json={"length": 17})
    at.client.get("/no/such/path")
    after = [_metric(at, *one) for one in (("tokens",), ("requests", 'path="other",status="404"'))]
    assert [b - a for a, b in zip(before, after, strict=True)] == [17, 1]
    text = at.client.get("/metrics").text
    line = re.compile(r"(# (HELP|TYPE) cellwright_\w+ .+|cellwright_\w+({(\w+=\"[^\"]*\",?)+})? [\d.e+-]+)")
    assert all(line.fullmatch(one) for one in text.splitlines())
    metrics = Metrics()
    metrics.add("tokens", 1, run='a"b\\c\nd')
    assert 'cellwright_tokens_total{run="a\\"b\\\\c\\nd"} 1' in metrics.text(0)


def test_the_page_comes_whole_from_the_server(at):
    page = at.client.get("/")
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    files = set(re.findall(r'(?:href|src)="([^"]+)"', page.text))
    files |= {f"/page/{name}" for name in re.findall(r'from "\./(\w+\.js)"', at.client.get("/page/app.js").text)}
    assert {"/page/style.css", "/page/app.js", "/page/api.js", "/page/heat.js"} <= files
    for file in files:
        answer = at.client.get(file)
        assert answer.status_code == 200
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", answer.text)
    limits = at.client.get("/page/app.js").text
    assert f"LONGEST = {Limits.text_characters}, NUMBERS = {Limits.numbers}" in limits


def test_every_control_of_the_page_has_a_label(at):
    html = at.client.get("/").text
    controls = re.findall(r"<(?:input|select|textarea)\b[^>]*>", html)
    assert len(controls) == 10
    for control in controls:
        name = re.search(r'id="([^"]+)"', control)[1]
        assert f'for="{name}"' in html or "aria-label" in control


def test_the_api_describes_itself(at):
    described = at.client.get("/openapi.json").json()
    paths = {"/api/runs", "/api/complete", "/api/score", "/api/activations", "/health", "/metrics"}
    assert set(described["paths"]) == paths
    table = Path(cellwright.__file__).parents[1] / "docs" / "serving.md"
    assert all(f"`{path}`" in table.read_text() for path in paths)
    answers = described["paths"]["/api/complete"]["post"]["responses"]
    assert answers["422"]["content"]["application/json"]["schema"]["$ref"].endswith("/Problem")


def test_sigterm_ends_streams_with_a_last_event(paths):
    flags = [sys.executable, "-m", "cellwright", "serve", *map(str, paths), "--port", "0"]
    environment = {**os.environ, "CELLWRIGHT_CFLAGS": "-O1"}
    with subprocess.Popen(flags, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert select.select([process.stdout], [], [], 120)[0]
        line = process.stdout.readline()
        port = int(re.fullmatch(r"serving letters, bytes on http://127\.0\.0\.1:(\d+)\n", line)[1])
        body = json.dumps({"run": "bytes", "length": 2000, "stream": True}).encode()
        head = f"POST /api/complete HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
        with socket.create_connection((HOST, port), timeout=20) as connection:
            connection.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + body)
            found = connection.recv(10_000)
            begin = time.monotonic()
            process.send_signal(signal.SIGTERM)
            while part := connection.recv(65536):
                found += part
            assert time.monotonic() - begin < 2
        assert process.wait(60) == 128 + signal.SIGTERM
        lines = found.decode().splitlines()
        name, data = list(events(lines))[-1]
        assert (name, data["ended"]) == ("end", "shutdown")
        assert process.stderr.read() == ""


def test_only_runs_and_cells_that_were_named_are_served(paths, tmp_path):
    with pytest.raises(SettingError, match="two of letters"):
        load_runs([paths[0], paths[0]])
    with pytest.raises(RunError, match="which has no config"):
        load_runs([tmp_path])
    config = json.loads((paths[0] / "config.json").read_text())
    config["settings"]["model"]["cell"] = "mine.py:Mine"
    run = tmp_path / "mine"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(config))
    for name in ("vocabulary.json", "model.safetensors"):
        (run / name).write_bytes((paths[0] / name).read_bytes())
    with pytest.raises(RunError, match=r"add --cell mine\.py:Mine"):
        load_runs([run])
    file = tmp_path / "moved.py"
    file.write_text("from cellwright.cells import LSTM\nclass Mine(LSTM):\n    pass\n")
    assert list(load_runs([paths[1], run], [f"{file}:Mine"])) == ["bytes", "mine"]


def test_what_cannot_be_served_is_said_in_one_line(paths, monkeypatch, capsys):
    def refused(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["serve", *map(str, arguments)])
        assert ended.value.code == 2
        return capsys.readouterr().err

    with socket.create_server((HOST, 0)) as taken:
        said = refused(paths[0], "--port", taken.getsockname()[1])
        assert said.count("\n") == 1
        assert "a port that is free; got 127.0.0.1 port" in said
    assert "--port 0 takes a free one" in refused(paths[0], "--host", "no such host", "--port", 0)
    assert "has no config.json" in refused(paths[0].parent, "--port", 0)
    monkeypatch.setattr(serve_module.importlib.util, "find_spec", lambda name: None)
    assert 'without fastapi and uvicorn; pip install "cellwright[serve]"' in refused(paths[0])
