"""The client of language models against a small server: what is tried again, what is skipped, what ends the work."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from lit_rlhf.labelling.annotators.chat import Chat, ChatError
from lit_rlhf.labelling.annotators.language_model import NoAnswerError
from tests.cli.fake_model import FakeModel, completion


@pytest.fixture
def model() -> Iterator[FakeModel]:
    serving = FakeModel()
    yield serving
    serving.close()


class Asked:
    """Questions to a model, with the pauses that were made instead of waiting."""

    def __init__(self, model: FakeModel, **settings: Any) -> None:
        given = {"fields": {"temperature": 0}, "timeout": 10.0, "retries": 3, "per_minute": None, "key": None}
        self.chat = Chat(model.address, "judge-1", **{**given, **settings})
        self.pauses: list[float] = []
        self.chat.sleep = self._sleep

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def ask(self, *questions: str) -> list[str | Exception]:
        """One after the other."""

        async def run() -> list[str | Exception]:
            said: list[str | Exception] = []
            async with self.chat:
                for text in questions:
                    try:
                        said.append(await self.chat.ask([{"role": "user", "content": text}]))
                    except (NoAnswerError, ChatError) as error:
                        said.append(error)
            return said

        return asyncio.run(run())


def test_a_question_is_sent_with_the_model_the_fields_and_the_key(model: FakeModel) -> None:
    asked = Asked(model, fields={"temperature": 0.5, "max_tokens": 9}, key="secret")
    assert asked.ask("hello \ud800") == ['{"reason": "r", "verdict": "A"}']
    assert model.requests == [
        {
            "model": "judge-1",
            "messages": [{"role": "user", "content": "hello \ud800"}],
            "temperature": 0.5,
            "max_tokens": 9,
        }
    ]
    assert model.headers[0]["Authorization"] == "Bearer secret"
    assert asked.pauses == []


def test_the_whole_address_may_be_given(model: FakeModel) -> None:
    model.address += "/chat/completions/"
    assert Asked(model).ask("a") == ['{"reason": "r", "verdict": "A"}']
    assert "Authorization" not in model.headers[0]


def test_what_may_pass_is_tried_again_with_the_pause_that_is_asked_for(model: FakeModel) -> None:
    def answer(_: dict[str, Any], number: int) -> web.Response:
        if number == 1:
            return web.Response(status=429, headers={"Retry-After": "7"})
        if number == 2:
            return web.Response(status=500, text="oh")
        if number == 3:
            return web.Response(status=503, headers={"Retry-After": "9999"})
        return completion("there")

    model.answer = answer
    asked = Asked(model)
    assert asked.ask("a") == ["there"]
    assert asked.pauses[0] == 7.0 and 1.0 <= asked.pauses[1] <= 2.0 and asked.pauses[2] == 60.0
    assert len({json.dumps(request) for request in model.requests}) == 1


def test_a_server_that_stays_away_ends_the_work(model: FakeModel) -> None:
    model.answer = lambda request, number: web.Response(status=500, text="broken")
    (error,) = Asked(model).ask("a")
    assert (
        isinstance(error, ChatError) and "judge-1: answered 500" in str(error) and "(4 tries)" in str(error)
    )
    assert str(error).endswith("broken (4 tries).")
    assert len(model.requests) == 4


def test_no_answer_in_time_is_tried_again(model: FakeModel) -> None:
    model.delay = 5.0
    asked = Asked(model, timeout=0.1, retries=1)
    (error,) = asked.ask("a")
    assert isinstance(error, ChatError) and "no answer within 0.1 seconds (2 tries)" in str(error)
    assert len(asked.pauses) == 1


def test_no_server_at_all(model: FakeModel) -> None:
    model.close()
    (error,) = Asked(model, retries=0).ask("a")
    assert isinstance(error, ChatError) and "ClientConnectorError" in str(error)


def test_a_question_that_fails_while_others_are_answered_is_its_own_fault(model: FakeModel) -> None:
    def answer(request: dict[str, Any], number: int) -> web.Response:
        return (
            web.Response(status=500) if request["messages"][0]["content"] == "poison" else completion("fine")
        )

    model.answer = answer
    asked = Asked(model, retries=1)

    async def run() -> tuple[Any, Any]:
        async with asked.chat:
            poison = asyncio.ensure_future(asked.chat.ask([{"role": "user", "content": "poison"}]))
            while not model.requests:  # the poison is on its way before the other is answered
                await asyncio.sleep(0.001)
            fine = asyncio.ensure_future(asked.chat.ask([{"role": "user", "content": "fine"}]))
            return await asyncio.gather(fine, poison, return_exceptions=True)

    async def wait(_: float) -> None:
        while asked.chat.answered == 0:
            await asyncio.sleep(0.001)

    asked.chat.sleep = wait
    fine, error = asyncio.run(run())
    assert fine == "fine" and isinstance(error, NoAnswerError) and "answered 500" in str(error)


@pytest.mark.parametrize("status", [401, 402, 403, 404, 307])
def test_a_refusal_that_all_would_meet_ends_the_work(model: FakeModel, status: int) -> None:
    def answer(_: dict[str, Any], number: int) -> web.Response:
        body = json.dumps({"error": "no such thing"})
        return completion("fine") if number == 1 else web.Response(status=status, text=body)

    model.answer = answer
    first, second = Asked(model).ask("a", "b")
    assert first == "fine" and isinstance(second, ChatError) and f"answered {status}" in str(second)
    assert len(model.requests) == 2


def test_a_refusal_of_one_question_is_a_skip_and_of_the_very_first_an_end(model: FakeModel) -> None:
    def answer(request: dict[str, Any], number: int) -> web.Response:
        long = request["messages"][0]["content"] == "long"
        return web.Response(status=400, text='{"error": "too many tokens"}') if long else completion("fine")

    model.answer = answer
    (first,) = Asked(model).ask("long")
    assert isinstance(first, ChatError) and "answered 400 Bad Request: too many tokens" in str(first)
    said = Asked(model).ask("a", *["long"] * 7, "a", *["long"] * 8)
    kinds = [type(one) for one in said]
    assert kinds == [str, *[NoAnswerError] * 7, str, *[NoAnswerError] * 7, ChatError]


@pytest.mark.parametrize(
    "body", ["<html>", "{}", '{"choices": []}', '{"choices": [{"message": null}]}', "[" * 100_000]
)
def test_what_is_no_completion_is_tried_again_and_then_ends_the_work(model: FakeModel, body: str) -> None:
    def answer(_: dict[str, Any], number: int) -> web.Response:
        return web.Response(text=body)

    model.answer = answer
    (error,) = Asked(model, retries=1).ask("a")
    assert isinstance(error, ChatError) and "expected a chat completion, found" in str(error)
    assert len(model.requests) == 2


@pytest.mark.parametrize("text", [None, "", "  \n", ["parts"]])
def test_a_message_without_text_is_no_answer(model: FakeModel, text: Any) -> None:
    model.answer = lambda request, number: completion(text)
    (error,) = Asked(model).ask("a")
    assert isinstance(error, NoAnswerError) and "no text" in str(error)


def test_an_answer_without_an_end_is_not_read(model: FakeModel) -> None:
    def answer(_: dict[str, Any], number: int) -> web.Response:
        return completion("fine" if number == 1 else "x" * (1 << 23))

    model.answer = answer
    said = Asked(model).ask("a", "b")
    assert said[0] == "fine" and isinstance(said[1], NoAnswerError) and "more than" in str(said[1])


def test_requests_start_no_faster_than_the_rate(model: FakeModel) -> None:
    asked = Asked(model, per_minute=2.0)
    asked.ask("a", "b", "c")
    first, second, third = asked.pauses
    assert first <= 0 and 29 < second <= 30 and 59 < third <= 60
