"""The gate before the application: every request's rate, size and time, and every answer's headers and count."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from cellwright.ship.serve_limits import Limits, Rates, RequestError, problem
from cellwright.ship.serve_metrics import Metrics

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
RAW_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


class Gate:
    """Lets a request through whole, or answers it with an error.

    Args:
        app: the application behind it.
        limits: what a request may take.
        metrics: where requests are counted.
        host: the address that is listened on. On a loopback address only requests for a loopback name are
            answered, so that no page from elsewhere reaches this server by a name of its own.
    """

    def __init__(self, app: App, limits: Limits, metrics: Metrics, host: str) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._rates, self._only_loopback = Rates(limits), is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.monotonic(), 499  # unless there will be another: the client left before

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *RAW_HEADERS]}
            await send(message)

        try:
            self._rates.take((scope.get("client") or ("unknown",))[0])
            self._check_host(scope)
            body = await self._read(scope, receive)
            if body is not None:
                await self._app(scope, _again(body, receive), answer)
        except RequestError as error:
            await _refuse(error, answer)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self._metrics.add("requests", 1, path=path, status=str(status))
            self._metrics.add("request_seconds", time.monotonic() - begin, path=path)

    def _check_host(self, scope: Scope) -> None:
        name = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        if self._only_loopback and not is_loopback(_without_port(name)):
            raise RequestError(
                421,
                "a server on a loopback address answers to the names of this machine",
                repr(name),
                "use http://127.0.0.1 or localhost, or let the server listen elsewhere with --host",
            )

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None where the client has left."""
        try:
            return await asyncio.wait_for(self._collect(receive), self._limits.receive_seconds)
        except asyncio.TimeoutError:
            seconds = f"{self._limits.receive_seconds:g} seconds"
            raise RequestError(408, f"a request arrives within {seconds}", "a part of one", "send it faster") from None

    async def _collect(self, receive: Receive) -> bytes | None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self._limits.body_bytes:
                most = f"{self._limits.body_bytes:,}"
                raise RequestError(413, f"a request has at most {most} bytes", "a longer one", "send a shorter text")
            if not message.get("more_body", False):
                return bytes(body)


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine and no other.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _without_port(name: str) -> str:
    return name.partition("]")[0] if name.startswith("[") else name.partition(":")[0]


def _again(body: bytes, receive: Receive) -> Receive:
    """Receive a body that has been read, and after it what else comes."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


async def _refuse(error: RequestError, send: Send) -> None:
    """Answer with an error, and close: what is left of the request is not read."""
    body = problem(error)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    headers += [(b"retry-after", b"1")] if error.status == 429 else []
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
