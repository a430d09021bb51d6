"""One request to a reward server: sent, and answered, refused, or to be tried again."""

from __future__ import annotations

import io
import json
import time
from email.utils import parsedate_to_datetime

import aiohttp

from lit_rlhf.rewards.remote.wire import shown

TRY_AGAIN = {408, 425, 429}
"""Statuses under 500 that say: later."""

LARGEST_ERROR = 1 << 16
"""Bytes that are read of the body of an error."""


class PostError(Exception):
    """A request without an answer.

    Args:
        why: what happened, such as ``answered 503 Service Unavailable: the queue is full``.
        again: whether the same request may do better later.
        retry_after: seconds after which the server wants it again.
    """

    def __init__(self, why: str, again: bool, retry_after: float | None = None) -> None:
        super().__init__(why)
        self.again = again
        self.retry_after = retry_after


def open_session(timeout: float, token: str | None) -> aiohttp.ClientSession:
    """Connections that are kept open from one request to the next; to be made and closed on one event loop.

    Args:
        timeout: seconds for each request, from the connection to the last byte of the answer.
        token: what ``Authorization: Bearer`` carries.
    """
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return aiohttp.ClientSession(
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=timeout, connect=None, sock_connect=None),
        connector=aiohttp.TCPConnector(limit=0),  # the caller bounds the requests in flight
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # an answer that grows where it is unpacked has no bound
    )


async def post(session: aiohttp.ClientSession, url: str, body: bytes, largest_answer: int) -> bytes:
    """The body of the answer to `body`.

    A redirection is an error: the token and the responses go nowhere but to the address in the config.

    Args:
        session: from :func:`open_session`.
        url: where to.
        body: what is sent.
        largest_answer: bytes that the answer may have.

    Raises:
        PostError: there is no answer.
    """
    try:
        # a file, since aiohttp sends that in parts and warns of large bytes
        async with session.post(url, data=io.BytesIO(body), allow_redirects=False) as response:
            if 200 <= response.status < 300:
                content = await _read(response, largest_answer + 1)
                if len(content) > largest_answer:
                    raise PostError(f"answered more than {largest_answer} bytes", again=False)
                return content
            raise await _refusal(response)
    except TimeoutError:
        raise PostError(f"no answer within {session.timeout.total:g} seconds", again=True) from None
    except (aiohttp.ClientError, OSError) as error:
        raise PostError(f"{type(error).__name__}: {shown(str(error))}", again=True) from error


def seconds_of(retry_after: str | None) -> float | None:
    """The seconds that a ``Retry-After`` asks for, given as such or as a date; None where it is neither.

    >>> seconds_of("2"), seconds_of("soon"), seconds_of("-1")
    (2.0, None, 0.0)
    """
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds else None


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size >= most:
            response.close()  # the rest is not waited for
            break
    return b"".join(parts)[:most]


async def _refusal(response: aiohttp.ClientResponse) -> PostError:
    said = _message(await _read(response, LARGEST_ERROR))
    why = f"answered {response.status} {shown(response.reason or '')}".rstrip()
    if 300 <= response.status < 400:
        place = shown(response.headers.get("Location", "nowhere"))
        return PostError(f"{why}, to {place}; give that address, if it is the server's", again=False)
    again = response.status in TRY_AGAIN or response.status >= 500
    retry_after = seconds_of(response.headers.get("Retry-After"))
    return PostError(f"{why}: {said}" if said else why, again, retry_after)


def _message(content: bytes) -> str:
    """The `error` of a JSON object, or what else the body says."""
    try:
        return shown(json.loads(content)["error"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return shown(content.decode(errors="replace"))
