"""A spreadsheet of judgements: a row each, a column a response.

``prompt``, ``response_1``, ``response_2``, … (or ``response_a``, ``response_b``), ``annotator`` and what she said in
one of ``choice`` (``1``, ``2``, ``a``, ``b``, ``tie``, ``both bad``, and ``1 slightly``), ``ranks`` (``2 1 3``: of
each response, 1 = best, equal = tie; or ``rank_1``, ``rank_2``, …), ``ratings`` (``4 2``; or ``rating_1``, …),
``rewrite`` and ``skip``. A row without any of these is an item to be judged. ``response_count`` tells an empty response
from none; without it the last response is the last that is not empty.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lit_rlhf.labelling.exchange.entries import (
    NOBODY,
    Entry,
    ExchangeError,
    Said,
    groups_by_rank,
    mode_of,
    preferred,
    ranked,
    read_prompt,
    seconds_of,
    short,
    tied,
    time_of,
)
from lit_rlhf.labelling.items import Item
from lit_rlhf.labelling.verdicts import Mode, Strength, Verdict

SAID = (
    "choice",
    "ranks",
    "ratings",
    "rewrite",
    "rewrite_of",
    "skip",
    "shown",
    "comment",
    "flag",
    "seconds",
    "at",
)
"""Columns that every table of ours has; the others are read where they are there."""
ABOUT = ("id", "domain", "prompt")
COUNT = "response_count"
"""How many responses a row has, since a model may have answered nothing."""
BETWEEN = "rows have an empty cell between their responses, which is taken for a response that is empty"
NO_VALUE = (None, "")
FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""What a spreadsheet takes for a formula, behind whatever apostrophes."""
_CHOICES = {
    **dict.fromkeys(("1", "a", "response_1", "response_a", "left", "first"), 0),
    **dict.fromkeys(("2", "b", "response_2", "response_b", "right", "second"), 1),
}
_TIES = ("tie", "equal", "same", "both", "=", "0")
_BOTH_BAD = ("both bad", "bothbad", "both_bad", "tie (bothbad)", "neither")


def parse_table_row(fields: Mapping[str, Any], place: str, mode: Mode | None = None) -> Entry:
    """A row of a table.

    Raises:
        ExchangeError: a column is missing or is not what its name says.
    """
    if set(SAID) <= fields.keys():
        fields = {name: _without_mark(value) for name, value in fields.items()}
    prompt = read_prompt(_messages(fields.get("prompt")), place)
    responses = _responses(fields, place)
    if not responses or not all(isinstance(response, str) for response in responses):
        raise ExchangeError(
            place,
            "`response_1`, `response_2`, … or `response_a`, `response_b`, all text",
            short(sorted(fields)),
        )
    said = _said(fields, responses, place)
    models = _numbered(fields, "model")
    named = {*ABOUT, COUNT, *SAID, "annotator", "machine", "judgement", "response_a", "response_b"}
    item = Item(
        mode_of([one.verdict for one in said], responses, mode),
        prompt,
        tuple(responses),
        row_id=_text(fields, "id") or None,
        models=tuple(str(name or "") for name in models) if len(models) == len(responses) else None,
        domain=_text(fields, "domain") or None,
        columns={
            name: value
            for name, value in fields.items()
            if name not in named
            and value not in NO_VALUE
            and not re.fullmatch(r"(response|model|rank|rating)_\d+", name)
        },
    )
    gap = COUNT not in fields and "" in responses and "response_a" not in fields
    return Entry(item, said, notes=[BETWEEN] * gap, place=place)


def _responses(fields: Mapping[str, Any], place: str) -> list[Any]:
    """As many as the row says that it has; else up to the last that is not empty."""
    stated = fields.get(COUNT)
    if stated in NO_VALUE:
        both = [fields[name] for name in ("response_a", "response_b") if name in fields]
        found = ["" if text is None else text for text in _numbered(fields, "response")]
        further = {name for name, value in fields.items() if re.fullmatch(r"response_\d+", name) and value}
        if further := further - {f"response_{number}" for number in range(1, len(found) + 1)}:
            expected = f"a column `response_{len(found) + 1}` before it"
            raise ExchangeError(place, expected, f"`{min(further, key=number_in)}`")
        return found or both
    (count,) = _numbers([stated], COUNT, place) or [0]
    names = [f"response_{number}" for number in range(1, 1 + int(min(count, len(fields))))]
    if count != len(names) or not names or not set(names) <= fields.keys():
        raise ExchangeError(place, f"`{COUNT}` to be how many responses there are columns for", short(stated))
    return ["" if fields[name] is None else fields[name] for name in names]


def _said(fields: Mapping[str, Any], responses: Sequence[str], place: str) -> list[Said]:
    verdict, count = _verdict(fields, responses, place), len(responses)
    if verdict is None:
        return []
    shown = _numbers(fields.get("shown"), "shown", place)
    if shown is not None and not set(shown) <= set(range(1, count + 1)):
        raise ExchangeError(
            place, f"`shown` to be numbers of responses, 1 to {count}", short(fields["shown"])
        )
    return [
        Said(
            _text(fields, "annotator") or NOBODY,
            verdict,
            None if shown is None else tuple(int(number) - 1 for number in shown),
            _text(fields, "comment"),
            _text(fields, "flag"),
            seconds_of(fields.get("seconds"), place, "seconds"),
            time_of(fields.get("at"), place, "at"),
            _text(fields, "machine") or None,
        )
    ]


def _verdict(fields: Mapping[str, Any], responses: Sequence[str], place: str) -> Verdict | None:
    count = len(responses)
    if skip := _text(fields, "skip"):
        return Verdict(skip=skip)
    if rewrite := _text(fields, "rewrite"):
        of = _numbers(fields.get("rewrite_of"), "rewrite_of", place) or [1]
        if len(of) != 1 or not 1 <= of[0] <= count:
            raise ExchangeError(
                place, f"`rewrite_of` to be a response, 1 to {count}", short(fields["rewrite_of"])
            )
        return Verdict(rewrite=rewrite, rewrite_of=int(of[0]) - 1)
    ratings = _one_each(fields, "rating", count, place)
    if ratings is not None:
        return Verdict(ratings=tuple(int(rating) for rating in ratings))
    choice, strength = _choice(fields)
    both_bad = choice in _BOTH_BAD
    ranks = _one_each(fields, "rank", count, place)
    if ranks is not None:
        groups = groups_by_rank(ranks)
        if choice in (*_CHOICES, *_TIES) and groups != _by_choice(choice, strength).ranking:
            raise ExchangeError(
                place, "`choice` and `ranks` to agree", f"{choice!r} and {short(fields['ranks'])}"
            )
        return Verdict(groups, both_bad=both_bad) if len(groups) == 1 else ranked(groups, responses, strength)
    if not choice:
        return None
    if both_bad or choice in _TIES:
        return tied(count, both_bad)
    if choice not in _CHOICES or count != 2:
        expected = (
            "1, 2, a, b, tie or both bad" if count == 2 else f"no choice, but `ranks`, with {count} responses"
        )
        raise ExchangeError(place, f"`choice` to be {expected}", short(fields["choice"]))
    return _by_choice(choice, strength)


def _by_choice(choice: str, strength: Strength) -> Verdict:
    return preferred(_CHOICES[choice] == 0, strength) if choice in _CHOICES else tied(2)


def _choice(fields: Mapping[str, Any]) -> tuple[str, Strength]:
    choice = _text(fields, "choice").strip().lower()
    for word in ("slightly", "better"):
        if choice.endswith(word):
            return choice.removesuffix(word).strip(), "slightly" if word == "slightly" else "better"
    return choice, "slightly" if _text(fields, "strength").strip().lower() == "slightly" else "better"


def _one_each(fields: Mapping[str, Any], name: str, count: int, place: str) -> list[float] | None:
    """A number a response, from `ranks` or from `rank_1`, `rank_2`, …; None where there are none."""
    values = _numbers(fields.get(f"{name}s"), f"{name}s", place)
    if values is None:
        cells = [cell for cell in _numbered(fields, name) if cell not in NO_VALUE]
        values = _numbers(cells or None, f"{name}_1", place)
    if values is not None and (len(values) != count or any(value != int(value) for value in values)):
        raise ExchangeError(place, f"`{name}s` with {count} whole numbers, one a response", f"{values}")
    return values


def _numbers(value: Any, name: str, place: str) -> list[float] | None:
    """Numbers of a cell: `2 1 3`, `2,1,3` or a JSON list; None where it is empty."""
    if value in NO_VALUE:
        return None
    parts = value if isinstance(value, list) else re.split(r"[\s,;]+", str(value).strip("[] \t"))
    try:
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError):
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise ExchangeError(place, f"`{name}` to be numbers", short(value))
    return numbers


def _numbered(fields: Mapping[str, Any], name: str) -> list[Any]:
    """The values of `name_1`, `name_2`, … up to the last that is not empty."""
    values: list[Any] = []
    while f"{name}_{len(values) + 1}" in fields:
        values.append(fields[f"{name}_{len(values) + 1}"])
    while values and values[-1] in NO_VALUE:
        values.pop()
    return values


def _messages(value: Any) -> Any:
    if isinstance(value, str) and value.startswith('[{"'):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return "" if value is None else str(value)


def _without_mark(value: Any) -> Any:
    marked = isinstance(value, str) and value.startswith("'") and FORMULA.match(value)
    return value[1:] if marked else value


def number_in(name: str) -> int:
    """That of a column such as ``response_2``."""
    return int(name.rpartition("_")[2])
