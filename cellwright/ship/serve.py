"""Serve trained runs: an HTTP API and a page on which the models write."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from cellwright.errors import MissingPackageError, SettingError
from cellwright.ship.serve_gate import Gate
from cellwright.ship.serve_limits import Limits
from cellwright.ship.serve_run import load_runs


def serve(
    paths: Sequence[Path],
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    cells: Sequence[str] = (),
    threads: int = 1,
    proxy: bool = False,
    version: str = "",
    note: Callable[[str], None] = print,
) -> None:
    """Serve runs until a signal says to stop.

    Args:
        paths: the directories of trained runs; no request can name others.
        host: the address to listen on.
        port: and the port; 0 takes a free one.
        limits: of requests, clients and the server.
        cells: the cells' files, of those runs that were trained with one.
        threads: that one step may use.
        proxy: whether a proxy on this machine says who a client is.
        version: of the package.
        note: is told in one line where the server listens.

    Raises:
        MissingPackageError: the extra `serve` is not installed.
        RunError: a directory is no run.
        SettingError: the address is taken, or not of this machine.
    """
    server_module, app_module = _packages()
    limits = limits or Limits()
    with _as_a_server(threads), _listen(host, port) as listening:
        at = app_module.Service(load_runs(paths, cells), limits)
        app = Gate(app_module.create_app(at, version), limits, at.metrics, host)
        server = server_module.server(app, limits, proxy, at.close)
        address, port = listening.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        server.on_start = lambda: note(f"serving {', '.join(at.runs)} on http://{shown}:{port}")
        server.run([listening])


@contextlib.contextmanager
def _as_a_server(threads: int) -> Iterator[None]:
    """Settings of the process while it serves, and as they were afterwards."""
    before = signal.getsignal(signal.SIGTERM), sys.getswitchinterval(), torch.get_num_threads()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.setswitchinterval(0.001)  # seconds for which a look at a text may hold up the texts in the making
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before[0])
        sys.setswitchinterval(before[1])
        torch.set_num_threads(before[2])


def _packages() -> tuple[Any, Any]:
    """Our modules that need optional packages, which other commands do without."""
    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackageError(
            "serve needs the packages fastapi and uvicorn",
            f"a Python without {' and '.join(missing)}",
            'pip install "cellwright[serve]"',
        )
    modules = ("cellwright.ship.serve_server", "cellwright.ship.serve_app")
    return importlib.import_module(modules[0]), importlib.import_module(modules[1])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, OverflowError, UnicodeError) as error:
        raise SettingError(
            "a server listens on an address of this machine and a port that is free",
            f"{host} port {port}: {error}",
            "name others with --host and --port; --port 0 takes a free one",
        ) from error
