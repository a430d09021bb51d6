"""What a trainer and a reward server say to each other: one JSON object there, one back.

A request is a POST of ``application/json``, with ``Authorization: Bearer …`` where a token is asked for::

    {"version": 1,
     "prompts": ["text" or [{"role": "user", "content": "text"}, ...], ...],
     "completions": ["text", ...],
     "finished": [true, ...],               did the response end with its EOS? left out: all did
     "completion_ids": [[5, 17, 1], ...],   in the policy's tokens; may be left out
     "columns": {"answer": ["4", ...]}}     the other fields of the prompt file that are JSON; may be left out

Every list has one entry for each response. The answer to it, with status 200::

    {"scores": [0.5, null, null], "failures": {"2": "longer than 512 tokens"}}

``null`` says that the reward does not apply to a response; `failures`, which may be left out, says of which nulls that
is not so, and why those have no score. Any other status is an error, with the body ``{"error": "why"}``: 408, 429, 5xx
and whatever happens to the connection are tried again, after the seconds of ``Retry-After`` where they are given.
"""

from __future__ import annotations

import json
import math
from typing import Any
from urllib.parse import urlsplit

import torch

from lit_rlhf.records import Prompt
from lit_rlhf.rewards.protocol import Completions
from lit_rlhf.rewards.scoring import Failure, Scoring

VERSION = 1
"""Of the format; a server refuses any other."""

FIELDS = {"version", "prompts", "completions", "finished", "completion_ids", "columns"}
LARGEST_SCORE = torch.finfo(torch.float32).max
LONGEST_TEXT = 500
"""Characters of somebody else's message that are shown."""


class WireError(ValueError):
    """Something else than the format says; the message has what was expected and what was found."""


def is_address(spec: Any) -> bool:
    """Whether a config's reward is the address of a server.

    >>> is_address("http://localhost:8000"), is_address("runs/reward/export"), is_address("https://x/y")
    (True, False, True)
    """
    return isinstance(spec, str) and urlsplit(spec).scheme in ("http", "https") and "://" in spec


def unsendable(columns: dict[str, list[Any]]) -> list[str]:
    """The names of the columns that are not JSON, such as bytes, dates and NaN."""
    return [name for name, values in columns.items() if not _is_json(values)]


def encode_request(completions: Completions) -> bytes:
    """The body of a request; its columns have to be JSON, see :func:`unsendable`."""
    content = {
        "version": VERSION,
        "prompts": completions.prompts,
        "completions": completions.texts,
        "finished": completions.finished,
        "completion_ids": completions.response_ids,
        "columns": completions.columns,
    }
    return json.dumps(content, allow_nan=False).encode()


def decode_request(body: bytes) -> Completions:
    """The responses that a request asks about, without the policy's tokens of the prompts, which are not sent.

    Raises:
        WireError: it is not in the format.
    """
    content = _object(body)
    if content.get("version") != VERSION:
        raise WireError(f"version: expected {VERSION}, found {shown(content.get('version'))}")
    if unknown := sorted(set(content) - FIELDS):
        raise WireError(f"expected the fields {', '.join(sorted(FIELDS))}, found {shown(unknown[0])} too")
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise WireError("expected text that UTF-8 can hold, found half of a surrogate pair") from None
    texts = _list(content, "completions", None)
    count = len(texts)
    if not count:
        raise WireError("completions: expected at least one response, found an empty list")
    columns = content.get("columns", {})
    if not isinstance(columns, dict):
        raise WireError(f"columns: expected an object of lists, found {_kind(columns)}")
    prompts = _list(content, "prompts", count)
    finished = _list(content, "finished", count) if "finished" in content else [True] * count
    ids = _list(content, "completion_ids", count) if "completion_ids" in content else [[]] * count
    for place in range(count):
        _check(_is_prompt(prompts[place]), "prompts", place, "text or [{role, content}]", prompts[place])
        _check(isinstance(texts[place], str), "completions", place, "text", texts[place])
        _check(isinstance(finished[place], bool), "finished", place, "true or false", finished[place])
        _check(_is_ids(ids[place]), "completion_ids", place, "a list of whole numbers", ids[place])
    return Completions(
        prompts=prompts,
        texts=texts,
        prompt_ids=[[] for _ in texts],
        response_ids=ids,
        finished=finished,
        prompt_names=[f"{place} of the request" for place in range(count)],
        columns={name: _list(columns, name, count) for name in columns},
    )


def encode_answer(scoring: Scoring) -> dict[str, Any]:
    """What a server answers; a score that JSON cannot say is a failure."""
    scores = scoring.scores.tolist()
    failures = {str(place): failure.why[:LONGEST_TEXT] for place, failure in scoring.failures.items()}
    for place, score in enumerate(scores):
        if math.isinf(score):
            failures.setdefault(str(place), f"expected a finite number, found {score}")
    return {"scores": [score if math.isfinite(score) else None for score in scores], "failures": failures}


def decode_answer(body: bytes, count: int, name: str) -> Scoring:
    """The scores that a server gave to `count` responses; a number that is none fails its response.

    Args:
        body: of the answer.
        count: responses that were asked about.
        name: what to call the reward in the failures.

    Raises:
        WireError: it is no answer to that.
    """
    content = _object(body)
    values = content.get("scores")
    if not isinstance(values, list):
        raise WireError(f'expected {{"scores": [{count} numbers]}}, found {shown(content)}')
    if len(values) != count:
        raise WireError(f"expected {count} scores, found {len(values)}")
    failures = _failures(content.get("failures", {}), values, name)
    numbers = [float("nan")] * count
    for place, value in enumerate(values):
        if isinstance(value, int | float) and abs(value) <= LARGEST_SCORE:
            numbers[place] = float(value)
        elif value is not None:
            failures[place] = Failure(
                f"Reward {name}: expected a finite number or null, found {shown(value)}"
            )
    return Scoring(torch.tensor(numbers), failures)


def shown(value: Any) -> str:
    """Somebody else's value or message in one line that a terminal can be given.

    >>> shown({"a": 1}), shown("two\\nlines" + chr(27))
    ("{'a': 1}", 'two lines')
    """
    text = value if isinstance(value, str) else repr(value)
    line = " ".join(text[: 2 * LONGEST_TEXT].split())
    line = "".join(letter for letter in line if letter.isprintable())
    return line if len(line) <= LONGEST_TEXT else line[:LONGEST_TEXT] + "…"


def _failures(given: Any, values: list[Any], name: str) -> dict[int, Failure]:
    places = {str(place): place for place, value in enumerate(values) if value is None}
    if not isinstance(given, dict) or not set(given) <= set(places):
        raise WireError(
            f"failures: expected reasons by the place of a score that is null, found {shown(given)}"
        )
    return {places[key]: Failure(f"Reward {name}: {shown(why)}") for key, why in given.items()}


def _object(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):  # bytes that are no text are a ValueError too
        raise WireError(f"expected JSON, found {shown(body.decode(errors='replace')) or 'nothing'}") from None
    if not isinstance(content, dict):
        raise WireError(f"expected a JSON object, found {_kind(content)}")
    return content


def _list(content: dict[str, Any], name: str, count: int | None) -> list[Any]:
    values = content.get(name)
    if not isinstance(values, list):
        raise WireError(f"{shown(name)}: expected a list, found {_kind(values)}")
    if count is not None and len(values) != count:
        raise WireError(f"{shown(name)}: expected {count} entries, as completions has, found {len(values)}")
    return values


def _check(holds: bool, name: str, place: int, expected: str, found: Any) -> None:
    if not holds:
        raise WireError(f"{name}[{place}]: expected {expected}, found {shown(found)}")


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
    return kinds.get(type(value), "a number")


def _is_prompt(prompt: Prompt | Any) -> bool:
    if isinstance(prompt, str):
        return True
    return (
        isinstance(prompt, list)
        and bool(prompt)
        and all(
            isinstance(turn, dict) and all(isinstance(turn.get(key), str) for key in ("role", "content"))
            for turn in prompt
        )
    )


def _is_ids(ids: Any) -> bool:
    return isinstance(ids, list) and all(type(token) is int for token in ids)


def _is_json(values: list[Any]) -> bool:
    try:
        json.dumps(values, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
