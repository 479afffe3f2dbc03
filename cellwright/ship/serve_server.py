"""The server around the application; needs the package uvicorn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from cellwright.ship.serve_limits import Limits


class Server(uvicorn.Server):
    """Uvicorn's server, which ends streams at once when it is to stop, and waits for no slow connection."""

    def __init__(self, config: uvicorn.Config, limits: Limits, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self.on_start: Callable[[], None] = lambda: None
        self._limits, self._on_stop = limits, on_stop
        self._since: dict[tuple[Any, Any], float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, *arguments: Any, **options: Any) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(*arguments, **options)
        self.on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._on_stop)

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:
            self._drop_slow()
        return await super().on_tick(counter)

    def _drop_slow(self) -> None:
        """Drop connections that have been at one thing too long: sending a request, or fetching its answer."""
        now, limits = time.monotonic(), self._limits
        at = [(connection, connection.cycle) for connection in self.server_state.connections]  # type: ignore[union-attr]
        self._since = {key: self._since.get(key, now) for key in at}
        for (connection, cycle), since in self._since.items():
            waiting = cycle is None or cycle.response_complete
            if now - since > limits.receive_seconds + (0 if waiting else limits.seconds):
                connection.transport.abort()


def server(app: Any, limits: Limits, proxy: bool, on_stop: Callable[[], None]) -> Server:
    """A server for an application.

    Args:
        app: the application.
        limits: of connections and of the time to end.
        proxy: whether a proxy on this machine says who a client is.
        on_stop: is called when a signal says to stop.
    """
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="on",
        interface="asgi3",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=proxy,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=limits.closing_seconds,
    )
    return Server(config, limits, on_stop)
