"""Foreign layouts in wide use, turned into the fields of our own.

Told apart by their field names alone: Alpaca (``instruction``, ``input``, ``output``), ShareGPT
(``conversations`` of ``{from, value}``), Nectar (``answers`` with ``rank``), UltraFeedback
(``completions`` with ratings; binarized with or without the scores), HelpSteer (one response a row with its five
ratings; or two responses with a preference from -3 to 3), and the column names that pair sets came with before there
was a habit. TRL's names are our own.
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
_HELPSTEER_RATINGS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
_HELPSTEER_PAIRS = (
    ("response_1", "response_2", "preference_strength"),
    ("response1", "response2", "overall_preference"),
)
_HELPSTEER_TURN = "<extra_id_1>"
_PAIR_RATINGS = (
    ("score_chosen", "score_rejected"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_avg_rating", "rejected_avg_rating"),
)


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
    _take_helpsteer(native)
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


def pair_ratings(fields: Mapping[str, Any]) -> list[float | None] | None:
    """What `chosen` and `rejected` were rated, under the names that binarized UltraFeedback sets use."""
    for names in _PAIR_RATINGS:
        ratings = [_number(fields.get(name)) for name in names]
        if any(rating is not None for rating in ratings):
            return ratings
    return None


def _take_helpsteer(native: dict[str, Any]) -> None:
    """HelpSteer's rows; their prompts become conversations, all of them, for some are."""
    if isinstance(native.get("response"), str) and all(name in native for name in _HELPSTEER_RATINGS):
        _take(native, "responses", [native["response"]])
        _take(native, "scores", [_mean(native["helpfulness"])])
        native["prompt"] = _helpsteer_prompt(native.get("prompt"))
    for first, second, name in _HELPSTEER_PAIRS:
        if first in native and second in native and name in native:
            strength = native[name]
            if isinstance(strength, bool) or not isinstance(strength, int | float) or not -3 <= strength <= 3:
                raise ValueError(f"`{name}` {strength!r}, which is none of -3 to 3")
            better, worse = (first, second) if strength <= 0 else (second, first)
            _take(native, "chosen", native[better])
            _take(native, "rejected", native[worse])
            _take(native, "tie", strength == 0)
            _take(native, "margin", abs(strength))
            native["prompt"] = _helpsteer_prompt(native.get("context", native.get("prompt")))


def _helpsteer_prompt(prompt: Any) -> Any:
    """Turns, from text in which ``<extra_id_1>Assistant`` and ``<extra_id_1>User`` begin all but the first."""
    if not isinstance(prompt, str):
        return prompt
    first, *rest = prompt.split(_HELPSTEER_TURN)
    turns = [{"role": "user", "content": first.removesuffix("\n") if rest else first}]
    for place, turn in enumerate(rest):
        role, _, content = turn.partition("\n")
        if role not in ("Assistant", "User"):
            raise ValueError(f"{_HELPSTEER_TURN}{role[:20]!r}, which is none of Assistant and User")
        last = place + 1 == len(rest)
        turns.append({"role": role.lower(), "content": content if last else content.removesuffix("\n")})
    return turns


def _mean(value: Any) -> Any:
    """Of several annotators' ratings (HelpSteer2's disagreements) their mean."""
    return sum(value) / len(value) if isinstance(value, list) and value else value


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
