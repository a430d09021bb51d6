"""Prompts and responses in one form, whichever way a row repeats its conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lit_rlhf.data.layouts import native_message
from lit_rlhf.records import Message, Prompt, Response

SIDES = ("chosen", "rejected")


_HH_ASSISTANT = "\n\nAssistant:"


class Mismatch(Exception):
    """(expected, found), on its way to becoming a RowError with a place."""


def settle_branches(prompt: Prompt, values: list[Any], names: list[str]) -> tuple[Prompt, list[Response]]:
    """Prompt and responses in one form: all text, or all turns with the prompt not repeated."""
    responses = [parse_response(value, name) for value, name in zip(values, names, strict=True)]
    if isinstance(prompt, str):
        if all(isinstance(response, str) for response in responses):
            return prompt, responses
        whole = [turns for turns in responses if isinstance(turns, list) and turns[0]["role"] != "assistant"]
        opening = _common_turns(whole)
        opening = opening[: _last_user(opening) + 1]
        if opening and opening[-1]["content"].strip() != prompt.strip():
            raise Mismatch(
                "the conversations to repeat `prompt` as their last common user turn",
                f"{show(opening[-1]['content'])} there and {show(prompt)} in `prompt`",
            )
        prompt = opening or [{"role": "user", "content": prompt}]
    return prompt, [_without_prefix(prompt, response, name) for response, name in zip(responses, names)]


def _without_prefix(prompt: list[Message], response: Response, name: str) -> Response:
    if isinstance(response, str):
        return response
    rest = response[len(prompt) :] if response[: len(prompt)] == prompt else response
    if not rest or rest[0]["role"] != "assistant":
        raise Mismatch(
            f"`{name}` to go on from the prompt with an assistant turn",
            f"roles {[turn['role'] for turn in rest]}",
        )
    return rest


def implicit_prompt(responses: list[Response]) -> tuple[Prompt, list[Response]]:
    """Whole conversations: the prompt is what they have in common.

    Text is split behind the last ``\\n\\nAssistant:`` of the common prefix, as HH-RLHF is meant.
    """
    first, second = responses
    if isinstance(first, str) and isinstance(second, str):
        shared = next(
            (place for place, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second))
        )
        cut = first[:shared].rfind(_HH_ASSISTANT)
        if cut < 0:
            raise Mismatch(
                "a `prompt`, or whole conversations with a common '\\n\\nAssistant:'",
                f"neither: `chosen` begins {show(first)}",
            )
        cut += len(_HH_ASSISTANT)
        return first[:cut], [first[cut:], second[cut:]]
    if isinstance(first, str) or isinstance(second, str):
        raise Mismatch("`chosen` and `rejected` both as text or both as messages", "one of each")
    prompt = _common_turns([first, second])
    if len(prompt) == len(first) == len(second):
        prompt = prompt[: _last_user(prompt) + 1]
    elif len(prompt) in (len(first), len(second)):
        raise Mismatch("conversations that differ in an answer", "one that only goes on from the other")
    if not prompt:
        raise Mismatch(
            "conversations with a common beginning", "`chosen` and `rejected` differ from the start"
        )
    return prompt, [_without_prefix(prompt, side, name) for side, name in zip((first, second), SIDES)]


def _common_turns(conversations: list[list[Message]]) -> list[Message]:
    """The turns that all conversations begin with; of a single one, those before its last answer."""
    if len(conversations) == 1:
        return conversations[0][:-1]
    shared: list[Message] = []
    for turns in zip(*conversations):
        if any(turn != turns[0] for turn in turns):
            break
        shared.append(turns[0])
    return shared


def _last_user(turns: list[Message]) -> int:
    return max((place for place, turn in enumerate(turns) if turn["role"] == "user"), default=-1)


def parse_response(value: Any, name: str) -> Response:
    if isinstance(value, Mapping):
        value = [value]
    return value if isinstance(value, str) else parse_messages(value, name)


def parse_messages(value: Any, name: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise Mismatch(f"`{name}` to be text or a list of messages", show(value))
    turns = []
    for place, message in enumerate(value):
        turn = native_message(message) if isinstance(message, Mapping) else {}
        if not isinstance(turn.get("role"), str) or not isinstance(turn.get("content"), str):
            raise Mismatch(f"`{name}[{place}]` to be {{role, content}}, both text", show(message))
        turns.append(turn)
    return turns


def show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
