"""The application: pages, their files, and the API, behind the gate."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from lit_rlhf.labelling.schema import StoreBusy, StoreError
from lit_rlhf.labelling.server.access import Access
from lit_rlhf.labelling.server.api import Api
from lit_rlhf.labelling.server.gate import HEADERS, Gate, Hosts, refused, session_of
from lit_rlhf.labelling.server.limits import Buckets
from lit_rlhf.labelling.server.live import LiveModel
from lit_rlhf.labelling.store import LabelStore, StaleJudgement

log = logging.getLogger(__name__)

PAGE = Path(__file__).parents[1] / "page"
"""The files of the pages."""


def create_app(
    store: LabelStore,
    access: Access,
    hosts: Hosts | None = None,
    live: LiveModel | None = None,
    requests: Buckets | None = None,
    guesses: Buckets | None = None,
    page: Path = PAGE,
) -> Starlette:
    """The labelling page and its API as an ASGI application.

    Args:
        store: holds all there is.
        access: who is let in.
        hosts: names under which the server is asked for; None = this machine's own, from itself.
        live: answers prompts that are typed in; None = there is no such page.
        requests: permissions of each session.
        guesses: permissions to be wrong about a token, of each address.
        page: the folder with the pages' files.
    """
    gate = Middleware(
        Gate, access=access, hosts=hosts or Hosts("127.0.0.1"), requests=requests, guesses=guesses
    )

    async def show(request: Request) -> Response:
        name = request.url.path.strip("/") or "index"
        if name == "agreement" and not session_of(request.scope).may_see_agreement:
            raise HTTPException(403, "How annotators agree is not shown to one of them.")
        if name == "live" and live is None:
            raise HTTPException(404, "No model was loaded; start the server with --live MODEL.")
        return FileResponse(page / f"{name}.html")

    return Starlette(
        routes=[
            *(Route(path, show, methods=["GET"]) for path in ("/", "/agreement", "/live")),
            *Api(store, access, live).routes(),
            Mount("/static", StaticFiles(directory=page)),
        ],
        middleware=[gate],
        exception_handlers=HANDLERS,
    )


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = error.detail
    if error.status_code in (404, 405) and said in ("Not Found", "Method Not Allowed"):
        said = f"There is nothing at {request.method} {request.url.path[:200]}."
    return refused(request, error.status_code, said, dict(error.headers or {}))


async def _refuse_stale(request: Request, error: Exception) -> Response:
    return refused(request, 409, str(error))


async def _refuse_wrong(request: Request, error: Exception) -> Response:
    return refused(request, 400, str(error))


async def _come_back(request: Request, error: Exception) -> Response:
    log.error("%s %s: the store could not be used: %s", request.method, request.url.path, error)
    said = f"The server's file cannot be used at the moment ({error}); what was just sent is not kept. Send it again."
    return refused(request, 503, said, {"Retry-After": "2"})


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _failed(request: Request, error: Exception) -> Response:
    # outside of the gate, so it brings the headers itself
    said = "The server failed at this; its terminal has the reason."
    return refused(request, 500, said, dict(HEADERS))


HANDLERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    HTTPException: _refuse,
    StaleJudgement: _refuse_stale,
    StoreError: _refuse_wrong,
    StoreBusy: _come_back,
    sqlite3.Error: _come_back,
    ClientDisconnect: _gone,
    Exception: _failed,
}
"""What each kind of error answers."""
