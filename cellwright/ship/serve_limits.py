"""What one server, client and request may take, and the errors that say so."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from cellwright.errors import CellwrightError

LONGEST_WORDS = 300  # of an error's parts: what came may be as long as a request


def limit(value: float, why: str) -> Any:
    """A field with its usual value and its reason."""
    return dataclasses.field(default=value, metadata={"why": why})


@dataclass(frozen=True)
class Limits:
    """What one server, client and request may take.

    >>> Limits().sessions
    64
    """

    text_characters: int = limit(4_000, "A page or two; activations of it take half a second.")
    length: int = limit(2_000, "Tokens written per request: seconds of work, and longer than people watch.")
    numbers: int = limit(131_072, "Numbers in an answer, about a megabyte: 32 units over the longest text.")
    body_bytes: int = limit(65_536, "The longest text with every character escaped as JSON (12 bytes), and room.")
    receive_seconds: float = limit(
        10.0, "Until a request has arrived whole; slower ones hold a connection for nothing."
    )
    seconds: float = limit(60.0, "Of one request; a stream ends then with what it has.")
    sessions: int = limit(64, "Requests at work at once; each holds a state and a place in the batch.")
    rate: float = limit(50.0, "Requests a second and client; a page makes a few.")
    burst: int = limit(200, "Requests that a client may make at once after a pause.")
    clients: int = limit(10_000, "Clients remembered for their rate; the longest silent is forgotten first.")
    connections: int = limit(512, "Open connections; half the file descriptors that a process usually has.")
    waiting_tokens: int = limit(512, "Tokens written and not yet fetched by a slow client, before its text pauses.")
    flush_seconds: float = limit(0.02, "How long a character may wait for others to be sent along: less than eyes see.")
    closing_seconds: int = limit(1, "For streams to end after a signal to stop; then they are cut.")


class RequestError(CellwrightError):
    """A request cannot be served; `status` is that of the HTTP answer."""

    def __init__(self, status: int, rule: str, came: str, write: str) -> None:
        super().__init__(rule, came, write)
        self.status = status


def problem(error: CellwrightError) -> bytes:
    """An error as JSON: the rule, what came, what to do instead; cut where it repeats a long request.

    >>> problem(RequestError(404, "a run is served", "'x'", "name another"))
    b'{"rule": "a run is served", "came": "\\'x\\'", "instead": "name another"}'
    """
    parts = {"rule": error.rule, "came": error.came, "instead": error.write}
    return json.dumps({name: _cut(words) for name, words in parts.items()}).encode()


def _cut(words: str) -> str:
    return words if len(words) <= LONGEST_WORDS else f"{words[:LONGEST_WORDS]}..."


class Rates:
    """Who has made how many requests lately: a bucket a client, which fills at a steady rate."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and when that was

    def take(self, client: str, now: float | None = None) -> None:
        """Count a request.

        Raises:
            RequestError: the client has made too many.
        """
        limits, now = self._limits, time.monotonic() if now is None else now
        left, then = self._buckets.pop(client, (float(limits.burst), now))
        left = min(left + (now - then) * limits.rate, float(limits.burst))
        self._buckets[client] = (max(left - 1, 0.0), now)
        if len(self._buckets) > limits.clients:
            self._buckets.popitem(last=False)
        if left < 1:
            raise RequestError(
                429, f"a client makes at most {limits.rate:g} requests a second", "more", "wait a second and try again"
            )
