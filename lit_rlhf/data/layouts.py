"""Foreign layouts in wide use, turned into the fields of our own.

Told apart by their field names alone: Alpaca (``instruction``, ``input``, ``output``), ShareGPT
(``conversations`` of ``{from, value}``), Nectar (``answers`` with ``rank``), UltraFeedback
(``completions`` with ratings), and the column names that pair sets came with before there was a habit.
TRL's names are our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
}
_ALIASES = {
    "completion": "response",
    "output": "response",
    "chosen_response": "chosen",
    "rejected_response": "rejected",
    "question": "prompt",
}


def native_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same row under our field names; fields without a value are left out.

    A field that stands under our own name already is never replaced.
    """
    native = {name: value for name, value in fields.items() if value is not None}
    if _is_records(native.get("answers"), "answer"):
        _take(native, "responses", [answer["answer"] for answer in native["answers"]])
        _take(native, "ranks", [answer.get("rank") for answer in native["answers"]])
    if _is_records(native.get("completions"), "response"):
        _take(native, "responses", [completion["response"] for completion in native["completions"]])
        _take(native, "scores", _ratings(native["completions"]))
    if "conversations" in native:
        _take(native, "messages", native["conversations"])
    if isinstance(native.get("instruction"), str):
        _take(native, "prompt", _alpaca_prompt(native))
    for alias, name in _ALIASES.items():
        if alias in native:
            _take(native, name, native[alias])
    if "conversations" in native and isinstance(native.get("system"), str):
        native["messages"] = [{"role": "system", "content": native["system"]}, *native["messages"]]
    return native


def native_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A turn as ``{"role", "content"}``, also from ShareGPT's ``{"from", "value"}``."""
    turn = {name: value for name, value in message.items() if value is not None}
    if "role" not in turn and "from" in turn:
        role = turn.pop("from")
        turn = {"role": _ROLES.get(role, role), "content": turn.pop("value", None), **turn}
    return turn


def _take(native: dict[str, Any], name: str, value: Any) -> None:
    native.setdefault(name, value)


def _is_records(value: Any, field: str) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, Mapping) and field in item for item in value)
    )


def _alpaca_prompt(fields: Mapping[str, Any]) -> str | list[dict[str, str]]:
    """Instruction and input as one text; a conversation where there is a system text or a history."""
    text = "\n".join(part for part in (fields["instruction"], fields.get("input")) if part)
    system, history = fields.get("system"), fields.get("history")
    if not system and not history:
        return text
    turns = [{"role": "system", "content": system}] if system else []
    for asked, answered in history or []:
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return [*turns, {"role": "user", "content": text}]


def _ratings(completions: list[Mapping[str, Any]]) -> list[float | None]:
    """UltraFeedback's judgement of each completion: the mean of its ratings by aspect.

    `overall_score` stands in where a row has no ratings; some of its values are known to be wrong.
    """
    means = [_mean_rating(completion.get("annotations")) for completion in completions]
    if any(mean is not None for mean in means):
        return means
    return [_number(completion.get("overall_score")) for completion in completions]


def _mean_rating(annotations: Any) -> float | None:
    if not isinstance(annotations, Mapping):
        return None
    given = [aspect.get("Rating") for aspect in annotations.values() if isinstance(aspect, Mapping)]
    ratings = [rating for value in given if (rating := _number(value)) is not None]
    return sum(ratings) / len(ratings) if ratings else None


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
