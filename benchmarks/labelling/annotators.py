"""Simulated annotators, each with a session of her own: they fetch a task, think, judge, and fetch the next."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

JSON = dict[str, Any]
RESENT = 0.05
"""Share of the judgements that are sent once more, as a page does whose answer was lost."""
WAIT_SECONDS = 0.5
"""Before a task is asked for again where others hold what is left, or the server has trouble."""
TRIES = 5
"""Of sending a judgement whose answer is lost."""
PATIENCE = 60.0
"""Seconds for one request."""


@dataclass(frozen=True)
class Acknowledged:
    """A judgement that the server said it has."""

    submission: str
    task: int
    judgement: int
    verdict: Mapping[str, Any]
    """By position, as it was sent."""
    annotator: str


@dataclass
class Seen:
    """What all annotators met with."""

    fetches: list[float] = field(default_factory=list)
    """Seconds from asking for a task to having it."""
    submits: list[float] = field(default_factory=list)
    """Seconds from sending a judgement to its acknowledgement, of those that were sent the first time."""
    acknowledged: list[Acknowledged] = field(default_factory=list)
    sent: set[str] = field(default_factory=set)
    """Ids of all judgements that left, acknowledged or not."""
    resent: int = 0
    resent_elsewhere: int = 0
    """Sent once more and acknowledged as another judgement than the first time: must be none."""
    errors: Counter[str] = field(default_factory=Counter)


class Annotator:
    """One person at a browser.

    Args:
        address: of the server, with the token.
        name: hers.
        think: mean seconds from seeing a task to judging it, exponentially distributed.
        seen: where she notes what she met with.
        seed: of her verdicts and her pace.
    """

    def __init__(self, address: str, name: str, think: float, seen: Seen, seed: int) -> None:
        self.base, self.token = address.split("/?token=")
        self.name, self.think, self.seen = name, think, seen
        self._random = random.Random(seed)

    async def work(self, until: float) -> None:
        """Judge until the clock (`time.monotonic`) says `until`, or nothing is left."""
        jar = aiohttp.CookieJar(unsafe=True)  # cookies of an address that is a number
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with aiohttp.ClientSession(self.base, cookie_jar=jar, timeout=timeout) as session:
            await self._sit_down(session)
            await asyncio.sleep(
                self._random.random() * self.think
            )  # they do not all begin at the same moment
            while time.monotonic() < until:
                task = await self._fetch(session, until)
                if task is None:
                    return
                await asyncio.sleep(self._random.expovariate(1 / self.think))
                await self._judge(session, task)

    async def _sit_down(self, session: aiohttp.ClientSession) -> None:
        async with session.get("/", params={"token": self.token}) as answer:
            answer.raise_for_status()
        async with session.get("/api/session") as answer:
            answer.raise_for_status()
            self._csrf = (await answer.json())["csrf"]
        async with session.post(
            "/api/session", json={"annotator": self.name}, headers=self._headers
        ) as answer:
            answer.raise_for_status()
            self._csrf = (await answer.json())["csrf"]

    @property
    def _headers(self) -> dict[str, str]:
        return {"X-CSRF": self._csrf}

    async def _fetch(self, session: aiohttp.ClientSession, until: float) -> JSON | None:
        """Her next task; None where nothing is left for her, or the time is over."""
        while time.monotonic() < until:
            start = time.perf_counter()
            answer = await self._asked(session, "GET", "/api/task", None)
            task: JSON | None = None if answer is None else answer.get("task")
            if task is not None:
                self.seen.fetches.append(time.perf_counter() - start)
                return task
            if answer is not None and answer.get("why") != "waiting":
                return None
            await asyncio.sleep(WAIT_SECONDS)
        return None

    async def _judge(self, session: aiohttp.ClientSession, task: JSON) -> None:
        verdict = self._verdict(task)
        body = {
            "task": task["number"],
            "submission": str(uuid.UUID(int=self._random.getrandbits(128), version=4)),
            "replaces": None,
            "verdict": verdict,
            "comment": "",
            "flag": "",
            "seconds": 1.0,
        }
        self.seen.sent.add(body["submission"])
        start = time.perf_counter()
        answer = None
        for _ in range(TRIES):  # the same judgement each time, which must not make two
            answer = answer or await self._asked(session, "POST", "/api/judgements", body)
        if answer is None:
            return  # she fetches again, and has the task before her once more if it was not taken
        self.seen.submits.append(time.perf_counter() - start)
        number = answer["judgement"]
        self.seen.acknowledged.append(
            Acknowledged(body["submission"], task["number"], number, verdict, self.name)
        )
        if self._random.random() < RESENT:
            again = await self._asked(session, "POST", "/api/judgements", body)
            self.seen.resent += again is not None
            self.seen.resent_elsewhere += again is not None and again["judgement"] != number

    async def _asked(
        self, session: aiohttp.ClientSession, method: str, path: str, body: JSON | None
    ) -> JSON | None:
        """The answer; None where it was refused or lost, which is counted."""
        try:
            async with session.request(method, path, json=body, headers=self._headers) as answer:
                if answer.status < 300:
                    content: JSON = await answer.json()
                    return content
                self.seen.errors[f"{method} {path}: {answer.status}"] += 1
                await asyncio.sleep(float(answer.headers.get("Retry-After", WAIT_SECONDS)))
        except (aiohttp.ClientError, TimeoutError) as error:
            self.seen.errors[f"{method} {path}: {type(error).__name__}"] += 1
            await asyncio.sleep(WAIT_SECONDS)
        return None

    def _verdict(self, task: JSON) -> JSON:
        """Any that the mode takes, ties and skips among them."""
        count = len(task["responses"])
        if self._random.random() < 0.03:
            return {"skip": "I cannot tell"}
        order = self._random.sample(range(count), count)
        tie = self._random.random() < 0.1
        if task["mode"] == "pairwise":
            if tie:
                return {"ranking": [[0, 1]]}
            return {
                "ranking": [[place] for place in order],
                "strength": self._random.choice(["better", "slightly"]),
            }
        return {
            "ranking": [sorted(order[:2]), *([place] for place in order[2:])] if tie else [[o] for o in order]
        }


async def work_all(address: str, annotators: int, seconds: float, think: float, seed: int = 0) -> Seen:
    """Let `annotators` work at once for `seconds`; those who are in a request then finish it."""
    seen, until = Seen(), time.monotonic() + seconds
    people = [
        Annotator(address, f"annotator {number}", think, seen, seed + number) for number in range(annotators)
    ]
    await asyncio.gather(*(one.work(until) for one in people))
    return seen
