"""A reward behind HTTP: a small server that several trainers can share.

Starlette routes and errors; what goes over the wire is in :mod:`lit_rlhf.rewards.remote.wire`, and what is scored
together in :mod:`lit_rlhf.rewards.remote.shared`.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lit_rlhf.rewards.protocol import BrokenRewardError
from lit_rlhf.rewards.remote.shared import SharedReward
from lit_rlhf.rewards.remote.wire import VERSION, WireError, decode_request, encode_answer
from lit_rlhf.rewards.scoring import PartialReward, Scoring

log = logging.getLogger(__name__)

READ_SECONDS = 60.0
"""In which a request has to have arrived as a whole."""


class RewardServer:
    """Answers ``POST /`` with scores, and ``GET /health``; ``app`` is the ASGI application.

    Args:
        reward: what scores.
        name: what ``/health`` calls it.
        batch_size: responses of several requests that are scored together.
        max_requests: requests that may be inside at once, being read, waiting or scored; more are answered 503 with
            ``Retry-After``.
        max_bytes: of a request's body; a larger one is answered 413.
        token: what ``Authorization: Bearer`` has to carry in a POST; None = nothing is asked for.
    """

    def __init__(
        self,
        reward: PartialReward,
        name: str,
        batch_size: int = 64,
        max_requests: int = 64,
        max_bytes: int = 8 << 20,
        token: str | None = None,
    ) -> None:
        self.reward = SharedReward(reward, batch_size)
        self.name = name
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self.token = token
        self.requests = 0
        """Inside at present."""
        self.scored = 0
        """Responses so far."""
        self.app = Starlette(
            routes=[
                Route("/", self.score, methods=["POST"]),
                Route("/health", self.health, methods=["GET"]),
            ],
            exception_handlers={HTTPException: _refuse, ClientDisconnect: _refuse},
            lifespan=self._lifespan,
        )

    async def health(self, request: Request) -> Response:
        """That it is there, and how much there is to do."""
        numbers = {"requests": self.requests, "max_requests": self.max_requests, "scored": self.scored}
        return JSONResponse({"status": "ok", "version": VERSION, "reward": self.name, **numbers})

    async def score(self, request: Request) -> Response:
        """The scores of a request's responses."""
        refusal = self._refusal(request)
        if refusal is not None:
            await _received(request, keep=0)
            raise refusal
        self.requests += 1
        try:
            body, size = await _received(request, keep=self.max_bytes)
            if size > self.max_bytes:
                raise HTTPException(
                    413,
                    f"expected at most {self.max_bytes} bytes, found {size}: send fewer responses in one request "
                    "(batch_size), or start the server with a larger --max-mib",
                )
            completions = decode_request(body)
            scoring = await self._unless_gone(request, asyncio.wrap_future(self.reward.ask(completions)))
        except WireError as error:
            raise HTTPException(400, str(error)) from error
        except BrokenRewardError as error:
            raise HTTPException(422, str(error)) from error
        except Exception as error:
            if isinstance(error, HTTPException | ClientDisconnect):
                raise
            log.exception("The reward failed on a request as a whole.")
            raise HTTPException(500, f"{type(error).__name__}: {error}") from error
        finally:
            self.requests -= 1
        self.scored += len(completions)
        return JSONResponse(encode_answer(scoring))

    def _refusal(self, request: Request) -> HTTPException | None:
        """What can be said against a request before it is read."""
        if self.token is not None:
            given = request.headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode()):
                found = "another one" if given else "none"
                return HTTPException(
                    401,
                    f"expected the server's token as `Authorization: Bearer ...` (token_env), found {found}",
                    {"WWW-Authenticate": "Bearer"},
                )
        kind = request.headers.get("content-type", "none")
        # a page in somebody's browser can send other kinds without asking first
        if kind.split(";")[0].strip().lower() != "application/json":
            return HTTPException(415, f"expected Content-Type: application/json, found {kind}")
        if self.requests >= self.max_requests:
            full = f"{self.max_requests} requests are inside, and no more are taken; ask again"
            return HTTPException(503, full, {"Retry-After": "1"})
        return None

    async def _unless_gone(self, request: Request, scoring: asyncio.Future[Scoring]) -> Scoring:
        """The scoring; one whose client has gone is taken back, so that nobody's time goes into it."""
        gone = asyncio.ensure_future(_disconnection(request))
        try:
            either: list[asyncio.Future[Any]] = [scoring, gone]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not scoring.done():
                raise ClientDisconnect
            return scoring.result()
        finally:
            gone.cancel()
            scoring.cancel()

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        self.reward.close()


async def _received(request: Request, keep: int) -> tuple[bytes, int]:
    """The body's first `keep` bytes or less, and its size; read to the end, since who still sends sees no answer."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size <= keep:
                    parts.append(part)
    except TimeoutError:
        raise HTTPException(408, f"the request had not arrived after {READ_SECONDS:g} seconds") from None
    return b"".join(parts), size


async def _disconnection(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refuse(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return Response(status_code=400)  # the client has gone: nobody reads it
    said = error.detail
    if error.status_code in (404, 405):
        said = f"expected POST / or GET /health, found {request.method} {request.url.path}"
    return JSONResponse({"error": said}, error.status_code, error.headers)
