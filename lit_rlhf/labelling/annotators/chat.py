"""A language model behind an OpenAI-compatible address: questions sent, tried again, given up."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from lit_rlhf.labelling.annotators.language_model import NoAnswerError
from lit_rlhf.labelling.annotators.question import Message
from lit_rlhf.labelling.annotators.settings import Annotator, key_of
from lit_rlhf.rewards.remote.posting import PostError, open_session, post
from lit_rlhf.rewards.remote.wire import shown

LARGEST_ANSWER = 1 << 22
"""Bytes of an answer."""
LONGEST_PAUSE = 60.0
"""Seconds between two tries at the most, whatever the server asks for."""
MOST_REFUSED = 8
"""Questions in a row that may be refused before there is no use in asking on."""
NOT_THIS_QUESTION = re.compile(r"answered (3\d\d|401|402|403|404|405)\b")
"""Refusals that every question would meet: another address, no key, no money, no such model."""


class ChatError(RuntimeError):
    """It is of no use to ask on; nothing was said about the tasks that were being asked about."""


class Chat:
    """Asks one model, one question at a time or many at once; an async context manager.

    A request that fails in a way that may pass (no connection, no answer in time, statuses 408, 429 and 5xx) is tried
    again with a pause that doubles from one second, or what ``Retry-After`` asks for where that is longer, up to a
    minute. One that fails to the end is that question's fault if others were answered meanwhile, and else the
    server's, which ends the work rather than leave a trail of skipped tasks; so does a refusal that is not about
    the question, or one behind the other.

    Args:
        address: such as ``http://localhost:8000/v1``; ``/chat/completions`` is put behind it where it is missing.
        model: its name there.
        fields: of the request, besides the model and the messages.
        timeout: seconds of one request.
        retries: tries after the first.
        per_minute: requests that may be started; None = no limit.
        key: sent as ``Authorization: Bearer``.
    """

    sleep: Callable[[float], Awaitable[object]] = staticmethod(asyncio.sleep)

    def __init__(
        self,
        address: str,
        model: str,
        fields: Mapping[str, Any],
        timeout: float,
        retries: int,
        per_minute: float | None,
        key: str | None,
    ) -> None:
        self.url = address.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self.model, self.fields = model, dict(fields)
        self.timeout, self.retries, self.per_minute, self.key = timeout, retries, per_minute, key
        self.answered = 0
        """Questions so far."""
        self._refused_in_a_row = 0
        self._next_start = 0.0
        self._random = random.Random()

    async def __aenter__(self) -> Chat:
        self._session = open_session(self.timeout, self.key)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def ask(self, messages: Sequence[Message]) -> str:
        """The text of the model's answer.

        Raises:
            NoAnswerError: there is none for these messages.
            ChatError: there will be none for any others either.
        """
        content = {"model": self.model, "messages": list(messages), **self.fields}
        body = json.dumps(content, ensure_ascii=True).encode()  # half a surrogate pair is not UTF-8
        answered_before, tries = self.answered, 0
        while True:
            tries += 1
            await self._turn()
            try:
                said = _text(await post(self._session, self.url, body, LARGEST_ANSWER))
            except PostError as error:
                if error.again and tries <= self.retries:
                    await self.sleep(self.pause(tries, error.retry_after))
                    continue
                self._give_up(error, tries, self.answered > answered_before)
            self.answered += 1
            self._refused_in_a_row = 0
            if said is None:
                raise NoAnswerError("its message has no text")
            return said

    def pause(self, failed: int, asked: float | None) -> float:
        """Seconds to wait after `failed` tries of a request, where the server asked for `asked`."""
        # a random share is left out, so that those that failed together do not come back together
        drawn = 2.0 ** min(failed - 1, 10) * (1 - self._random.random() / 2)
        return min(LONGEST_PAUSE, max(drawn, asked or 0.0))

    def _give_up(self, error: PostError, tries: int, others_answered: bool) -> None:
        why = f"{error}{f' ({tries} tries)' if tries > 1 else ''}"
        if not error.again:
            self._refused_in_a_row += 1
        passing = others_answered if error.again else self.answered and self._refused_in_a_row < MOST_REFUSED
        if passing and not NOT_THIS_QUESTION.match(str(error)):
            raise NoAnswerError(why) from error
        raise ChatError(f"{self.url}, model {self.model}: {why}.") from error

    async def _turn(self) -> None:
        """Wait until the rate lets one more request start."""
        if self.per_minute is None:
            return
        now = asyncio.get_running_loop().time()
        start = max(now, self._next_start)
        self._next_start = start + 60 / self.per_minute
        await self.sleep(start - now)


def chat_with(settings: Annotator) -> Chat:
    """The language model of an annotator, not yet asked.

    Raises:
        AnnotatorError: see :func:`lit_rlhf.labelling.annotators.settings.key_of`.
    """
    assert settings.llm_model is not None
    return Chat(
        settings.annotator,
        settings.llm_model,
        settings.llm_request,
        settings.timeout,
        settings.retries,
        settings.requests_per_minute,
        key_of(settings.key_env, "model.annotator.key_env"),
    )


def _text(body: bytes) -> str | None:
    """Of the first choice's message; None where that has none, such as a refusal.

    Raises:
        PostError: it is no chat completion, which a server in trouble may send.
    """
    try:
        text = json.loads(body)["choices"][0]["message"].get("content")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        found = shown(body[:200].decode(errors="replace")) or "nothing"
        raise PostError(f"expected a chat completion, found {found}", again=True) from None
    return text if isinstance(text, str) and text.strip() else None
