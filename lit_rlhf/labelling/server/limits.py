"""How much anybody may ask for: requests by the second, the size of a body, and what JSON may hold."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

MOST_BYTES = 3 << 20
"""Of a request's body: the longest correction, written in escapes."""
READ_SECONDS = 30.0
"""In which a body has to have arrived."""
MOST_KEYS = 4096
"""Sessions or addresses that are counted at once; the ones not heard of for longest are forgotten."""


class Buckets:
    """A bucket of permissions for each key, which fills again with time.

    Args:
        burst: permissions of a full bucket.
        per_second: how fast it fills.
        clock: the time in seconds.
    """

    def __init__(self, burst: int, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.burst, self.per_second, self._clock = burst, per_second, clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> float:
        """Take a permission if there is one, and return 0; else the seconds until there is."""
        level = self._level(key)
        if level < 1:
            return (1 - level) / self.per_second
        self._levels[key] = (level - 1, self._clock())
        self._levels.move_to_end(key)
        while len(self._levels) > MOST_KEYS:
            self._levels.popitem(last=False)
        return 0.0

    def _level(self, key: str) -> float:
        level, then = self._levels.get(key, (float(self.burst), self._clock()))
        return min(float(self.burst), level + (self._clock() - then) * self.per_second)


async def read_object(request: Request, most: int = MOST_BYTES) -> dict[str, Any]:
    """The JSON object of a request's body.

    Raises:
        HTTPException: 413, larger than `most` bytes; 408, too slow; 400, not a JSON object that can be stored.
    """
    return parse_object(await _received(request, most))


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object, of whatever a body holds.

    Raises:
        HTTPException: 400, what is wrong with it.
    """
    try:
        content = json.loads(body.decode(), parse_constant=_no_constant)
        if b"\\u" in body:  # half of a pair cannot be written as UTF-8, so not stored either
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise HTTPException(400, "expected a JSON object, found one nested too deep") from None
    except ValueError as error:  # text that is no UTF-8, numbers of thousands of digits among them
        raise HTTPException(400, f"expected a JSON object: {str(error)[:200]}") from None
    if not isinstance(content, dict):
        raise HTTPException(400, f"expected a JSON object, found {type(content).__name__}")
    return content


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


async def _received(request: Request, most: int) -> bytes:
    """The body; what is too large is read a while longer, since who still sends sees no answer."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size <= most:
                    parts.append(part)
                elif size > 8 * most:
                    break
    except TimeoutError:
        raise HTTPException(408, f"the request had not arrived after {READ_SECONDS:g} seconds") from None
    if size > most:
        raise HTTPException(
            413, f"expected at most {most:,} bytes, found {'at least ' * (size > 8 * most)}{size:,}"
        )
    return b"".join(parts)
