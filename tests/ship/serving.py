"""A server of small runs in a thread, and what to ask it."""

import contextlib
import json
import socket
import threading
import time
import types

import httpx2

from cellwright.ship.serve_app import Service, create_app
from cellwright.ship.serve_gate import Gate
from cellwright.ship.serve_limits import Limits
from cellwright.ship.serve_server import server as make_server

HOST = "127.0.0.1"


@contextlib.contextmanager
def serving(runs, host=HOST, **limits):
    """A server for as long as it is needed: `service`, `port`, and a `client` that speaks to it."""
    given = Limits(**{"rate": 1e6, "burst": 10**6, **limits})
    service = Service(runs, given)
    app = Gate(create_app(service, "1"), given, service.metrics, host)
    listening = socket.create_server((HOST, 0))
    server = make_server(app, given, False, service.close)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = listening.getsockname()[1]
    try:
        with httpx2.Client(base_url=f"http://{HOST}:{port}", timeout=30, trust_env=False) as client:
            yield types.SimpleNamespace(service=service, port=port, client=client)
    finally:
        service.close()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def events(lines):
    """The events of a stream: (name, data)."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
            name = ""


def stream(client, **asked):
    """All events of a streamed completion."""
    with client.stream("POST", "/api/complete", json={**asked, "stream": True}) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        return list(events(answer.iter_lines()))


def text_of(found):
    return "".join(data["text"] for name, data in found if not name)


def raw(port, *pieces, pause=0.0):
    """Whatever comes back for bytes sent piece by piece."""
    with socket.create_connection((HOST, port), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                found += part
        return found
