"""Where every request passes before anything else sees it: host, session, origin, forgery, pace; and what every answer
carries. In this order, so that who has no session learns nothing, not even which addresses there are."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Collection
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lit_rlhf.labelling.server.access import LIFE_SECONDS, Access, Session
from lit_rlhf.labelling.server.limits import Buckets

PAGES = ("/", "/agreement", "/live")
"""The addresses that take a token."""
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(?::\d{1,5})?")

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=(), display-capture=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "X-Robots-Tag": "noindex",
}
"""Of every answer."""


class Hosts:
    """The names under which the server may be asked for: any other is a stranger's name that leads here.

    Args:
        given: the address that the server listens on.
        names: more names of this machine.
    """

    def __init__(self, given: str, names: Collection[str] = ()) -> None:
        bracketed = f"[{given}]" if ":" in given else given
        self.known = {name.lower() for name in (*LOOPBACK, bracketed, *names)}
        try:
            self._every_address = ipaddress.ip_address(given).is_unspecified
        except ValueError:
            self._every_address = False

    def knows(self, header: str) -> bool:
        """Whether a Host header is one of ours, with whatever port.

        A server on every network of its machine is asked for by addresses that it cannot list; a number, unlike a
        name, cannot be made to lead elsewhere.
        """
        match = HOST.fullmatch(header)
        if match is None:
            return False
        name = match[1].lower()
        return name in self.known or (self._every_address and _is_address(name.strip("[]")))


class Gate:
    """The outermost layer of the application.

    Args:
        app: what is behind.
        access: who is let in.
        hosts: under which names.
        requests: of each session.
        guesses: wrong tokens of each address.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        hosts: Hosts,
        requests: Buckets | None = None,
        guesses: Buckets | None = None,
    ) -> None:
        self.app, self.access, self.hosts = app, access, hosts
        self.requests = requests or Buckets(300, 60.0)
        self.guesses = guesses or Buckets(10, 0.2)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope)
        session, refusal = self._judge(request)
        cookie = None
        if session is not None and refusal is None:
            if request.url.path in PAGES and request.method in ("GET", "HEAD"):
                session = self.access.renewed(session)
                cookie = set_cookie(self.access, session)
            scope.setdefault("state", {})["session"] = session

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if cookie is not None and message["status"] < 400:
                    headers.append("Set-Cookie", cookie)
            await send(message)

        await (refusal or self.app)(scope, receive, send_on)

    def _judge(self, request: Request) -> tuple[Session | None, Response | None]:
        """Whose request it is, and what is said against it."""
        host = request.headers.getlist("host")
        if len(host) != 1 or not self.hosts.knows(host[0]):
            return None, refused(
                request, 403, "This server is not asked for under that name; use the address it printed."
            )
        session = self.access.session(request.cookies.get(self.access.cookie_name, ""))
        token = request.query_params.get("token")
        if session is not None and token is not None and not self.access.belongs(session, token):
            session = None
        if session is None and token is not None and request.url.path in PAGES:
            session, refusal = self._admit(request, token)
            if refusal is not None:
                return None, refusal
        if session is None:
            said = "Open the address that `lit-rlhf label serve` printed; it ends in ?token=…"
            return None, refused(request, 401, said)
        if wait := self.requests.take(session.id):
            return None, too_many(request, wait, "Too many requests.")
        if request.method not in SAFE_METHODS:
            return session, self._forgery(request, session)
        return session, None

    def _admit(self, request: Request, token: str) -> tuple[Session | None, Response | None]:
        client = request.client.host if request.client else "unknown"
        session = self.access.admit(token)
        if session is not None:
            return session, None  # whoever guesses beside her, perhaps through the same tunnel
        if wait := self.guesses.take(client):
            return None, too_many(request, wait, "Too many wrong tokens.")
        return None, refused(request, 401, "This token is not, or no longer, one of this server's.")

    def _forgery(self, request: Request, session: Session) -> Response | None:
        """What speaks against a request that changes something having come from our own page."""
        origin, host = request.headers.get("origin"), request.headers["host"]
        if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            return refused(request, 403, "This request came from another site.")
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return refused(request, 403, "This request came from another site.")
        if not self.access.may_post(session, request.headers.get("x-csrf", "")):
            return refused(request, 403, "This request has not the session's X-CSRF; load the page again.")
        kind = request.headers.get("content-type", "none")
        if kind.split(";")[0].strip().lower() != "application/json":
            return refused(request, 400, f"expected Content-Type: application/json, found {kind[:80]}")
        return None


def set_cookie(access: Access, session: Session) -> str:
    """The header that gives a browser its session.

    Without `Secure`: over plain HTTP it would be dropped, and an SSH tunnel ends in plain HTTP too.
    """
    cookie = f"{access.cookie_name}={access.cookie(session)}"
    return f"{cookie}; Path=/; Max-Age={LIFE_SECONDS}; HttpOnly; SameSite=Strict"


def refused(request: Request, status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    """A refusal in the words of the API, or as text for who looks at a page."""
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": sentence}, status, headers)
    return PlainTextResponse(sentence, status, headers)


def too_many(request: Request, wait: float, sentence: str) -> Response:
    """429, with the time after which it is worth another try."""
    seconds = math.ceil(wait)
    return refused(request, 429, f"{sentence} Try again in {seconds} s.", {"Retry-After": str(seconds)})


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def session_of(scope: Any) -> Session:
    """The session that the gate found."""
    session: Session = scope["state"]["session"]
    return session
