"""Many texts in the making, one recurrent state each, stepped together as one batch."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from cellwright.layers.stream import State, Stream
from cellwright.ship.serve_limits import Limits, RequestError
from cellwright.ship.serve_metrics import Metrics
from cellwright.text.model import LanguageModel
from cellwright.text.sample import Picker, pick_rows

log = logging.getLogger("cellwright.serve")


class Session:
    """One text in the making: what it reads next, how it picks, what it has written and nobody has fetched.

    Args:
        prefix: ids to read first, at least one.
        length: how many tokens to write.
        picker: how each is picked.
        seed: of the picks.
        limits: of what may wait.
    """

    def __init__(self, prefix: Sequence[int], length: int, picker: Picker, seed: int, limits: Limits) -> None:
        self._unread, self._left, self._limits = deque(prefix), length, limits
        self.picker, self.generator = picker, torch.Generator().manual_seed(seed)
        self.state: Tensor | None = None  # (S,), while it is in no batch; None: zeros
        self.ended = ""  # why: length, time, shutdown, error or gone
        self.on_room: Callable[[], None] = lambda: None  # is called when more may be written
        self._written: list[int] = []
        self._flush_at = 0.0
        self._ready = asyncio.Event()

    @property
    def waits_for_step(self) -> bool:
        """Whether it wants to go on: a client that fetches too slowly makes its text pause."""
        return not self.ended and len(self._written) < self._limits.waiting_tokens

    def next_token(self) -> int:
        """The token to read in the coming step."""
        return self._unread.popleft()

    @property
    def picks(self) -> bool:
        """Whether it has read all there is, so that it picks the next token."""
        return not self._unread

    def take(self, token: int, now: float) -> None:
        """Write a token, and read it in the next step."""
        self._written.append(token)
        self._unread.append(token)
        self._left -= 1
        if not self._left:
            self.end("length")
        elif now >= self._flush_at or not self.waits_for_step:
            self._ready.set()

    def end(self, why: str) -> None:
        """Write no more; the first reason stays."""
        self.ended = self.ended or why
        self._ready.set()

    async def fetch(self) -> list[int]:
        """What was written since the last call, waiting for it; nothing once it has ended."""
        await self._ready.wait()
        written, self._written = self._written, []
        self._flush_at = time.monotonic() + self._limits.flush_seconds
        if not self.ended:
            self._ready.clear()
        self.on_room()
        return written


class Batch:
    """The states of those sessions that step together, as the rows of one stream.

    Its rows are a power of two, so that few streams are ever made; rows too many compute on what is left in them.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._streams: dict[int, Stream] = {}
        self._members: list[Session] = []
        self._stream = self._sized(1)
        self._sizes = [[s.shape[1] for s in layer] for layer in self._stream.state]

    @torch.inference_mode()
    def step(self, sessions: list[Session]) -> Tensor:
        """Scores (B, V) of every session's next token, after each has read one."""
        if sessions != self._members:
            self._regroup(sessions)
        tokens = [session.next_token() for session in sessions]
        tokens += [0] * (self._stream.batch_size - len(tokens))
        x = self._model.embed(torch.tensor(tokens)).to(self._model.output.weight.dtype)  # (B, E)
        y = self._stream(x)  # (B, H)
        scores: Tensor = self._model.output(y)
        return scores[: len(sessions)]

    def _sized(self, rows: int) -> Stream:
        if rows not in self._streams:
            self._streams[rows] = self._model.recurrent.stream(rows)
        return self._streams[rows]

    def _regroup(self, sessions: list[Session]) -> None:
        """Every row back to its session, and then those of the new members together."""
        rows = torch.cat([s for layer in self._stream.state for s in layer], 1)  # (B, S)
        for session, row in zip(self._members, rows.unbind(0), strict=False):
            session.state = row.clone()
        zeros = rows.new_zeros(rows.shape[1])
        self._stream = self._sized(1 << (len(sessions) - 1).bit_length())
        states = [zeros if session.state is None else session.state for session in sessions]
        states += [zeros] * (self._stream.batch_size - len(states))
        self._stream.state = self._split(torch.stack(states))
        self._members = sessions

    def _split(self, rows: Tensor) -> list[State]:
        columns = iter(rows.split([size for layer in self._sizes for size in layer], 1))  # type: ignore[no-untyped-call]
        return [tuple(next(columns) for _ in layer) for layer in self._sizes]


class Scheduler:
    """Steps all sessions of a model, for as long as there are any; each is handed its characters as they come.

    It runs between the other tasks of its event loop: a step takes a millisecond or so, and what a thread of
    its own would gain, it would lose waiting for Python's lock in every operation of a step.
    """

    def __init__(self, name: str, model: LanguageModel, limits: Limits, metrics: Metrics) -> None:
        self._name, self._limits, self._metrics = name, limits, metrics
        self._batch = Batch(model)
        self._sessions: list[Session] = []
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Step until cancelled."""
        while True:
            ready = [session for session in self._sessions if session.waits_for_step]
            if ready:
                self._step(ready)
                await asyncio.sleep(0)
            else:
                self._wake.clear()
                await self._wake.wait()

    def _step(self, sessions: list[Session]) -> None:
        begin = time.monotonic()
        try:
            scores = self._batch.step(sessions)
            rows = [row for row, session in enumerate(sessions) if session.picks]
            writing = [sessions[row] for row in rows]
            picks = pick_rows(scores[rows], [s.picker for s in writing], [s.generator for s in writing]) if rows else []
        except Exception:
            log.exception("a step of %s failed, and %d texts with it", self._name, len(sessions))
            for session in sessions:
                session.end("error")
            return
        now = time.monotonic()
        for session, token in zip(writing, picks, strict=True):
            session.take(token, now)
        self._metrics.add("tokens", len(picks), run=self._name)
        self._metrics.add("steps", 1, run=self._name)
        self._metrics.add("step_rows", len(sessions), run=self._name)
        self._metrics.add("step_seconds", now - begin, run=self._name)

    @contextmanager
    def at_work(self, session: Session) -> Iterator[None]:
        """Have a session written on, until it ends, its time is up, or nobody wants it any more."""
        session.on_room = self._wake.set
        self._sessions.append(session)
        self._wake.set()
        timer = asyncio.get_running_loop().call_later(self._limits.seconds, session.end, "time")
        try:
            yield
        finally:
            timer.cancel()
            session.end("gone")
            self._sessions.remove(session)

    def end(self, why: str) -> None:
        """End all sessions."""
        for session in self._sessions:
            session.end(why)


class Slots:
    """How many requests may be at work at once."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self.taken = limits, 0

    def check(self) -> None:
        """Refuse what would be one too many.

        Raises:
            RequestError: all are taken.
        """
        if self.taken >= self._limits.sessions:
            raise RequestError(
                429,
                f"at most {self._limits.sessions} requests are at work at once",
                "one more",
                "try again in a few seconds",
            )

    def __enter__(self) -> None:
        self.check()
        self.taken += 1

    def __exit__(self, *_: object) -> None:
        self.taken -= 1
