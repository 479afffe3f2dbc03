"""The HTTP API and the page; needs the package fastapi."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from cellwright.errors import CellwrightError
from cellwright.ship.serve_limits import Limits, RequestError, problem
from cellwright.ship.serve_metrics import Metrics
from cellwright.ship.serve_run import ServedRun
from cellwright.ship.serve_schema import (
    Activations,
    Completed,
    Completion,
    Health,
    Look,
    Problem,
    RunAbout,
    Score,
    Text,
)
from cellwright.ship.serve_sessions import Scheduler, Session, Slots
from cellwright.text.write import Decoder

PAGE = Path(__file__).parent / "page"
EVENTS = "text/event-stream"
Responses = dict[int | str, dict[str, Any]]


class Service:
    """The served runs, and what is at work on them."""

    def __init__(self, runs: dict[str, ServedRun], limits: Limits) -> None:
        self.runs, self.limits, self.metrics, self.slots = runs, limits, Metrics(), Slots(limits)
        self.schedulers = {name: Scheduler(name, run.model, limits, self.metrics) for name, run in runs.items()}
        self.worker = ThreadPoolExecutor(1, "cellwright-look")
        self.closing = False

    def run(self, name: str | None) -> ServedRun:
        """A run by its name; without one, the first."""
        try:
            return next(iter(self.runs.values())) if name is None else self.runs[name]
        except KeyError:
            known = ", ".join(self.runs)
            raise RequestError(404, "a run is one of those served", repr(name), f"name one of: {known}") from None

    def close(self) -> None:
        """End all texts in the making."""
        self.closing = True
        for scheduler in self.schedulers.values():
            scheduler.end("shutdown")

    async def look(self, function: Callable[..., dict[str, Any]], *arguments: Any) -> Response:
        """A look at a text as JSON, one after the other beside the texts in the making."""

        def work() -> Response:
            return Response(json.dumps(function(*arguments)), media_type="application/json")

        with self.slots:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.worker, work)


def service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


At = Annotated[Service, Depends(service)]
REFUSED: Responses = {
    400: {"model": Problem, "description": "The run cannot read this."},
    404: {"model": Problem, "description": "No such run."},
    408: {"model": Problem, "description": "The request did not arrive in time."},
    413: {"model": Problem, "description": "The request is too long."},
    421: {"model": Problem, "description": "The host of the request is not this machine."},
    422: {"model": Problem, "description": "The request is not as described here."},
    429: {"model": Problem, "description": "Too many requests, of this client or of all."},
}
GATE: Responses = {status: about for status, about in REFUSED.items() if status in (408, 413, 421, 429)}
api = APIRouter(prefix="/api")
rest = APIRouter()


@api.get("/runs", responses=GATE)
async def runs(at: At) -> list[RunAbout]:
    """The runs that are served."""
    return [RunAbout(**run.about()) for run in at.runs.values()]


@api.post(
    "/complete",
    responses={
        **REFUSED,
        200: {"model": Completed, "content": {EVENTS: {"schema": {"type": "string"}}}},
        503: {"model": Problem, "description": "The server is stopping."},
    },
)
async def complete(asked: Completion, at: At, request: Request) -> Any:
    """Write on from a prefix, whole or as server-sent events.

    The events: `start` with run and prefix; then, without a name, `{"text": ...}` for every piece; at last `end`
    with tokens and ended.
    """
    run = at.run(asked.run)
    if at.closing:
        raise RequestError(503, "a server that stops begins nothing new", "a request", "ask again later")
    prefix = run.read_prefix(asked.prefix)
    session = Session(prefix, asked.length, asked.picker(run.never), asked.seed, at.limits)
    begun = {"run": run.name, "prefix": run.vocabulary.decode(prefix)}
    at_work = at.schedulers[run.name].at_work(session)
    at.slots.check()
    if asked.stream:
        return EventStream(_events(begun, session, Decoder(run.vocabulary)), at.slots, at_work)
    with at.slots, at_work:
        written: list[int] = []
        while tokens := await session.fetch():
            written += tokens
            if await request.is_disconnected():
                break
    decoder = Decoder(run.vocabulary)
    text = "".join([*map(decoder.read, written), decoder.rest()])
    return Completed(**begun, text=text, tokens=len(written), ended=session.ended)


class EventStream(StreamingResponse):
    """Server-sent events of a session, which ends with them, however they end."""

    media_type = EVENTS

    def __init__(self, events: AsyncIterator[bytes], *at_work: AbstractContextManager[None]) -> None:
        super().__init__(events, headers={"x-accel-buffering": "no"})  # a proxy passes them on at once
        self._at_work = at_work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        slots, at_work = self._at_work
        with slots, at_work:
            await super().__call__(scope, receive, send)


async def _events(begun: dict[str, Any], session: Session, decoder: Decoder) -> AsyncIterator[bytes]:
    yield _event(begun, "start")
    count = 0
    while tokens := await session.fetch():
        count += len(tokens)
        pieces = (decoder.read(token) for token in tokens)
        if found := b"".join(_event({"text": piece}) for piece in pieces if piece):
            yield found
    if left := decoder.rest():
        yield _event({"text": left})
    yield _event({"tokens": count, "ended": session.ended}, "end")


def _event(data: dict[str, Any], name: str = "") -> bytes:
    return f"{f'event: {name}' + chr(10) if name else ''}data: {json.dumps(data)}\n\n".encode()


@api.post("/score", responses=REFUSED, response_model=Score)
async def score(asked: Text, at: At) -> Response:
    """How surprising each piece of a text is, in bits."""
    return await at.look(at.run(asked.run).score, asked.text)


@api.post("/activations", responses=REFUSED, response_model=Activations)
async def activations(asked: Look, at: At) -> Response:
    """Gates and states over a text: one value of the cell, for some or all of its units."""
    most = at.limits.numbers
    return await at.look(at.run(asked.run).activations, asked.text, asked.value, asked.first_unit, asked.units, most)


@rest.get("/health", responses={**GATE, 503: {"model": Health, "description": "The server is stopping."}})
async def health(at: At, response: Response) -> Health:
    """Whether the server takes requests."""
    response.status_code = 503 if at.closing else 200
    return Health(status="stopping" if at.closing else "ok")


@rest.get("/metrics", response_class=PlainTextResponse, responses=GATE)
async def metrics(at: At) -> PlainTextResponse:
    """Counters, for Prometheus."""
    kind = "text/plain; version=0.0.4; charset=utf-8"
    return PlainTextResponse(at.metrics.text(at.slots.taken), media_type=kind)


@rest.get("/", include_in_schema=False)
async def page() -> FileResponse:
    return FileResponse(PAGE / "index.html")


def create_app(at: Service, version: str) -> FastAPI:
    """The application of a service.

    Args:
        at: what it serves.
        version: of the package, for the description of the API.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(scheduler.run()) for scheduler in at.schedulers.values()]
        yield
        at.close()
        for task in tasks:
            task.cancel()
        at.worker.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title="Cellwright",
        version=version,
        summary="Trained recurrent models that write, score texts and show their gates.",
        lifespan=life,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = at
    app.include_router(api)
    app.include_router(rest)
    app.mount("/page", StaticFiles(directory=PAGE))
    app.add_exception_handler(CellwrightError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _fault)
    return app


def _answer(error: CellwrightError, status: int, headers: Any = None) -> Response:
    return Response(problem(error), status, headers, "application/json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, CellwrightError)
    return _answer(error, error.status if isinstance(error, RequestError) else 400)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or "the body"
    came = ascii(first.get("input"))
    return _answer(CellwrightError(f"{where}: {first['msg']}", came, "see /openapi.json for what is asked"), 422)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    came = f"{request.method} {request.url.path!a}: {error.detail}"
    what = CellwrightError("a request is one of those in /openapi.json", came, "ask for one of them")
    return _answer(what, error.status_code, error.headers)


async def _fault(request: Request, error: Exception) -> Response:
    return _answer(CellwrightError("every request is answered", "a fault of the server's", "see its log"), 500)
