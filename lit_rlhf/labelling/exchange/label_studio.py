"""Label Studio's JSON: tasks with their annotations.

Read are the tags ``Pairwise``, ``Ranker`` (a list, a list under the tag's name, or buckets, which are tie groups),
``Rating`` of one response, ``Choices`` that say tie, both bad or slightly better, and ``TextArea`` for corrections and
remarks. ``completed_by`` is the annotator, ``lead_time`` the seconds, ``was_cancelled`` a skip.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lit_rlhf.labelling.exchange.entries import (
    NOBODY,
    PROMPT_NAMES,
    Entry,
    ExchangeError,
    Said,
    mode_of,
    preferred,
    ranked,
    read_prompt,
    seconds_of,
    short,
    tied,
    time_of,
)
from lit_rlhf.labelling.exchange.label_studio_config import LabellingConfig
from lit_rlhf.labelling.items import Item
from lit_rlhf.labelling.verdicts import Mode, Strength, Verdict

SIDES = (
    ("response_a", "response_b"),
    ("response_1", "response_2"),
    ("response1", "response2"),
    ("answer_a", "answer_b"),
    ("answer1", "answer2"),
    ("text1", "text2"),
    ("left", "right"),
    ("chosen", "rejected"),
)
"""Fields of a task's data that a pair is looked for in, where no labelling config says which they are."""
OWN = ("prompt", "messages", "items", "id", "domain", "response")
REMARKS = ("comment", "flag")
READ = ("pairwise", "ranker", "rating", "choices", "textarea")
UNPLACED = "rankings that leave some responses where they were, which says nothing of them"
PREDICTIONS = "predictions, which nobody made"
NOTHING = "annotations that say nothing that is read here"


def parse_task(
    fields: Mapping[str, Any], place: str, mode: Mode | None = None, config: LabellingConfig | None = None
) -> Entry:
    """A task.

    Args:
        fields: of the task.
        place: ``file:line``.
        mode: of an item that nobody has judged.
        config: the project's labelling config, where it is at hand.

    Raises:
        ExchangeError: a field is missing or is not what its name says.
    """
    data = fields.get("data")
    if not isinstance(data, Mapping):
        raise ExchangeError(place, "`data` with a prompt and responses", short(data))
    ids, names, responses = _responses(data, place, config)
    guesses = fields.get("predictions") or []
    entry = Entry(Item("ranking", _prompt(data, place, names), tuple(responses)), place=place)
    entry.left_out += [PREDICTIONS] * len(guesses)
    given = fields.get("annotations", fields.get("completions", []))
    if not isinstance(given, list) or not all(isinstance(one, Mapping) for one in given):
        raise ExchangeError(place, "`annotations` to be a list", short(given))
    for one in given:
        said = _annotation(one, ids, responses, place, config)
        results = [str(result.get("type")) for result in one.get("result") or []]
        entry.left_out += [
            f"results of the tag {kind}, which is not read" for kind in results if kind not in READ
        ]
        if isinstance(said, str):
            entry.left_out.append(said)
        else:
            entry.said.append(said)
    row_id = data.get("id")
    entry.item = Item(
        mode_of([one.verdict for one in entry.said], responses, mode),
        entry.item.prompt,
        entry.item.responses,
        row_id=None if row_id is None else str(row_id),
        domain=data["domain"] if isinstance(data.get("domain"), str) else None,
        columns={name: value for name, value in data.items() if name not in {*OWN, *names, *PROMPT_NAMES}},
    )
    return entry


def _responses(
    data: Mapping[str, Any], place: str, config: LabellingConfig | None
) -> tuple[list[str], list[str], list[str]]:
    """Ids of the responses, the fields that hold them, and their texts."""
    name = config.items if config and config.items else "items"
    items = data.get(name)
    if isinstance(items, list) and items:
        ids, texts = [], []
        for item in items:
            text = item.get("body", item.get("text")) if isinstance(item, Mapping) else None
            if not isinstance(text, str) or not isinstance(item.get("id"), str | int):
                raise ExchangeError(place, f"`{name}` to hold an `id` and a `body` each", short(item))
            ids.append(str(item["id"]))
            texts.append(text)
        return ids, [name], texts
    fields = _text_fields(data, config)
    if fields is None:
        raise ExchangeError(
            place,
            "`items`, `response_a` and `response_b`, or `response` in `data` (other names: put the project's "
            "labelling config beside the file, of the same name with .xml)",
            f"fields {', '.join(data)}",
        )
    texts = [data[one] for one in fields]
    if not all(isinstance(text, str) for text in texts):
        raise ExchangeError(place, f"`{'`, `'.join(fields)}` to be text", short(texts))
    return ["left", "right"][: len(texts)], list(fields), texts


def _text_fields(data: Mapping[str, Any], config: LabellingConfig | None) -> tuple[str, ...] | None:
    """The fields of the two responses, or of the one; as the labelling config says, else by their usual names."""
    known: list[tuple[str, ...]] = [*SIDES, ("response",)]
    if config and (config.sides or config.response):
        known = [config.sides or (str(config.response),)]
    return next((names for names in known if all(name in data for name in names)), None)


def _prompt(data: Mapping[str, Any], place: str, taken: Sequence[str]) -> Any:
    if data.get("messages"):
        return read_prompt(data["messages"], place, "data.messages")
    name = next((name for name in PROMPT_NAMES if name in data and name not in taken), None)
    if name is None:
        raise ExchangeError(place, f"one of {', '.join(PROMPT_NAMES)} in `data`", f"fields {', '.join(data)}")
    return read_prompt(data[name], place, f"data.{name}")


def _annotation(
    given: Mapping[str, Any],
    ids: Sequence[str],
    responses: Sequence[str],
    place: str,
    config: LabellingConfig | None,
) -> Said | str:
    """What an annotation says; or in words why nothing is made of it."""
    results = given.get("result", [])
    if not isinstance(results, list) or not all(isinstance(one, Mapping) for one in results):
        raise ExchangeError(place, "`result` to be a list of objects", short(results))
    values = [(str(one.get("from_name", "")), one.get("type"), one.get("value")) for one in results]
    texts = {name: _joined(value) for name, kind, value in values if kind == "textarea"}
    verdict: Verdict | str | None
    if given.get("was_cancelled"):
        verdict = Verdict(skip=texts.get("comment") or "cancelled")
    else:
        verdict = _verdict(values, texts, ids, responses, place, config)
    if not isinstance(verdict, Verdict):
        return verdict or NOTHING
    at = given.get("updated_at") or given.get("created_at")
    return Said(
        _annotator(given.get("completed_by")),
        verdict,
        comment="" if verdict.skip else texts.get("comment", ""),
        flag=texts.get("flag", ""),
        seconds=seconds_of(given.get("lead_time"), place, "lead_time"),
        at=time_of(at, place, "created_at"),
    )


def _verdict(
    values: Sequence[tuple[str, Any, Any]],
    texts: Mapping[str, str],
    ids: Sequence[str],
    responses: Sequence[str],
    place: str,
    config: LabellingConfig | None,
) -> Verdict | str | None:
    words = " ".join(
        str(word).lower() for _, kind, value in values if kind == "choices" for word in _list(value, kind)
    )
    both_bad = "both bad" in words or "bothbad" in words or "neither" in words
    strength: Strength = "slightly" if "slight" in words else "better"
    if both_bad or re.search(r"\b(tie|equal|same)\b", words):
        return tied(len(ids), both_bad)
    for name, kind, value in values:
        if not isinstance(value, Mapping):
            continue
        if kind == "pairwise" and value.get("selected") in ("left", "right"):
            return preferred(value["selected"] == "left", strength)
        if kind == "ranker":
            groups = _ranking(value.get("ranker"), name, ids, place, config)
            return groups if isinstance(groups, str) else ranked(groups, responses, strength)
        if kind == "rating" and len(ids) == 1:
            rating = value.get("rating")
            if type(rating) is not int:
                raise ExchangeError(place, "`rating` to be a whole number", short(rating))
            return Verdict(ratings=(rating,))
    rewrite = next((text for name, text in texts.items() if name not in REMARKS and text.strip()), None)
    return None if rewrite is None else Verdict(rewrite=rewrite, rewrite_of=0)


def _ranking(
    value: Any, name: str, ids: Sequence[str], place: str, config: LabellingConfig | None
) -> tuple[tuple[int, ...], ...] | str:
    """Tie groups from a list of ids, from one under the tag's own name, or from buckets."""
    if isinstance(value, Mapping) and set(value) == {name}:
        value = value[name]
    if isinstance(value, list):
        groups = [[one] for one in value]
    elif isinstance(value, Mapping):
        order = _bucket_order([bucket for bucket in value if bucket != "_"], config)
        groups = [value[bucket] for bucket in order]
    else:
        raise ExchangeError(place, "`ranker` to be a list of ids, or buckets of them", short(value))
    index = {one: position for position, one in enumerate(ids)}
    try:
        ranking = tuple(tuple(sorted(index[str(one)] for one in group)) for group in groups if group)
    except (KeyError, TypeError):
        raise ExchangeError(
            place, f"`ranker` to hold ids of the task's items, {', '.join(ids)}", short(value)
        ) from None
    placed = [one for group in ranking for one in group]
    if len(set(placed)) < len(placed):
        raise ExchangeError(place, "`ranker` to hold each id once", short(value))
    return ranking if len(placed) == len(ids) else UNPLACED


def _bucket_order(names: Sequence[str], config: LabellingConfig | None) -> list[str]:
    """Buckets, best first: as the labelling config has them, else by a number in their names, else as they stand."""
    if config and set(names) <= set(config.buckets):
        return [name for name in config.buckets if name in names]
    numbers = {name: re.search(r"\d+", name) for name in names}
    if all(numbers.values()):
        return sorted(names, key=lambda name: int(found[0]) if (found := numbers[name]) else 0)
    return list(names)


def _annotator(value: Any) -> str:
    """Who completed a task: an e-mail address, a name or a number."""
    if isinstance(value, Mapping):
        value = next(
            (value[key] for key in ("email", "username", "id") if value.get(key) not in (None, "")), None
        )
    return NOBODY if value in (None, "") else str(value)


def _joined(value: Any) -> str:
    text = value.get("text") if isinstance(value, Mapping) else None
    return "\n".join(map(str, text)) if isinstance(text, list) else str(text or "")


def _list(value: Any, name: str) -> list[Any]:
    found = value.get(name) if isinstance(value, Mapping) else None
    return found if isinstance(found, list) else [found]
