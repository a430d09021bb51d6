"""Argilla's records, read from their JSON or their flattened columns; its own package is not needed.

``record.to_dict()`` has ``responses`` by question, ``{question: [{value, user_id}]}``; the HTTP API a list of
``{values: {question: {value}}, user_id, status}``; a data set the columns ``question.responses``,
``question.responses.users`` and ``question.responses.status``. A ranking is a list of names, best first, or of
``{value, rank}``, where equal ranks tie.
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
    content_text,
    groups_by_rank,
    mode_of,
    preferred,
    ranked,
    read_prompt,
    short,
    tied,
)
from lit_rlhf.labelling.items import Item
from lit_rlhf.labelling.verdicts import Mode, Strength, Verdict

DRAFTS = "drafts, which their annotators have not submitted"
SUGGESTIONS = "suggestions, which nobody made"
NOTHING = "responses to questions that say nothing that is read here"
PARTLY_RATED = "ratings that leave out some responses"
PARTIAL = "rankings that leave out some responses"
UNREAD = "answers to further questions beside one that is read"
REMARKS = ("comment", "flag", "strength")
_RESPONSE = re.compile(
    r"(response|reply|answer|completion|generation|candidate|output)s?[-_ ]?\w*", re.IGNORECASE
)
_REWRITE = re.compile(r"correct|rewrit|edit|improve", re.IGNORECASE)
_TIES = ("tie", "equal", "same", "both")
_BOTH_BAD = ("both bad", "both_bad", "neither")
_OWN = ("id", "status", "_server_id", "metadata", "vectors", "suggestions", "responses", "domain")


def parse_record(fields: Mapping[str, Any], place: str, mode: Mode | None = None) -> Entry:
    """A record.

    Raises:
        ExchangeError: a field is missing or is not what its name says.
    """
    shown = fields.get("fields")
    metadata = fields.get("metadata") if isinstance(fields.get("metadata"), Mapping) else {}
    if not isinstance(
        shown, Mapping
    ):  # the columns of a data set: everything that is no answer and no number of ours
        shown = {name: value for name, value in fields.items() if "." not in name and name not in _OWN}
    prompt_name = next((name for name in PROMPT_NAMES if name in shown), None)
    if prompt_name is None:
        raise ExchangeError(place, f"a field of {', '.join(PROMPT_NAMES)}", f"fields {', '.join(shown)}")
    texts = {name: _text(value) for name, value in shown.items() if name != prompt_name}
    names = [name for name, text in texts.items() if text is not None and _RESPONSE.fullmatch(name)]
    names = names or (
        [name for name, text in texts.items() if text is not None] if "fields" in fields else []
    )
    if not names:
        raise ExchangeError(
            place, "fields of responses, such as `response_1`, all text", f"fields {', '.join(shown)}"
        )
    responses = tuple(str(texts[name]) for name in names)
    entry = Entry(
        Item("ranking", read_prompt(shown[prompt_name], place, prompt_name), responses), place=place
    )
    suggested = fields.get("suggestions") or [
        name for name in fields if name.endswith(".suggestion") and fields[name]
    ]
    entry.left_out += [SUGGESTIONS] * len(suggested)
    for user, answers, status in _answers(fields, place):
        said, unread = _said(user, answers, status, dict(zip(names, responses, strict=True)), place)
        entry.left_out += [UNREAD] * unread
        if isinstance(said, str):
            entry.left_out.append(said)
        else:
            entry.said.append(said)
    domain = (metadata or {}).get("domain", fields.get("domain"))
    entry.item = Item(
        mode_of([one.verdict for one in entry.said], responses, mode),
        entry.item.prompt,
        responses,
        row_id=None if fields.get("id") is None else str(fields["id"]),
        domain=domain if isinstance(domain, str) else None,
        columns={name: value for name, value in (metadata or {}).items() if name != "domain"},
    )
    return entry


def _text(value: Any) -> str | None:
    """A field's text; of a chat of one turn, what was said."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping):
        return content_text(value[0].get("content"))
    return value if isinstance(value, str) else None


def _answers(fields: Mapping[str, Any], place: str) -> list[tuple[str, dict[str, Any], str]]:
    """(user, answer by question, status) of each annotator, in whichever of the four ways they stand."""
    by_user: dict[str, tuple[dict[str, Any], list[str]]] = {}

    def add(user: Any, question: str, value: Any, status: Any) -> None:
        name = NOBODY if user in (None, "", "None") else str(user)
        answers, statuses = by_user.setdefault(name, ({}, []))
        answers[question] = value
        if status is not None:
            statuses.append(str(getattr(status, "value", status)))

    given = fields.get("responses")
    if isinstance(given, Mapping):
        for question, answers in given.items():
            for one in _objects(answers, f"responses.{question}", place):
                add(one.get("user_id"), question, one.get("value"), one.get("status"))
    elif isinstance(given, list):
        for one in _objects(given, "responses", place):
            if "question_name" in one:
                add(one.get("user_id"), str(one["question_name"]), one.get("value"), one.get("status"))
                continue
            values = one.get("values") or {}
            for question, value in (values or {"": None}).items():
                answer = value.get("value") if isinstance(value, Mapping) else value
                add(one.get("user_id"), question, answer, one.get("status"))
    else:
        for column in [name for name in fields if name.endswith(".responses")]:
            values = fields[column] or []
            users = fields.get(f"{column}.users") or [None] * len(values)
            statuses = fields.get(f"{column}.status") or [None] * len(values)
            if not all(
                isinstance(one, list) and len(one) == len(values) for one in (values, users, statuses)
            ):
                raise ExchangeError(
                    place, f"`{column}`, its users and its status of one length", short(values)
                )
            for user, value, status in zip(users, values, statuses, strict=True):
                add(user, column.removesuffix(".responses"), value, status)
    return [
        (user, answers, next((one for one in ("discarded", "draft") if one in statuses), "submitted"))
        for user, (answers, statuses) in by_user.items()
    ]


def _said(
    user: str, answers: Mapping[str, Any], status: str, responses: Mapping[str, str], place: str
) -> tuple[Said | str, int]:
    """What an annotator said, or why that is no judgement; and how many of the answers are not read."""
    comment, flag = (str(answers.get(name) or "") for name in ("comment", "flag"))
    if status == "draft":
        return DRAFTS, 0
    if status == "discarded":
        return Said(user, Verdict(skip=comment or "discarded"), flag=flag), 0
    verdict, read = _verdict(answers, responses, place)
    unread = sum(value is not None for name, value in answers.items() if name not in {*read, *REMARKS})
    if isinstance(verdict, str):
        return verdict, unread
    return Said(user, verdict, comment=comment, flag=flag), unread


def _verdict(
    answers: Mapping[str, Any], responses: Mapping[str, str], place: str
) -> tuple[Verdict | str, set[str]]:
    """What the answers say, and which questions that is; a ranking comes before a choice, ratings and a rewrite."""
    names = list(responses)
    strength: Strength = "slightly" if str(answers.get("strength")).startswith("slight") else "better"
    both_bad = answers.get("strength") == "both bad"
    texts = {
        question: value
        for question, value in answers.items()
        if isinstance(value, str) and value.strip() and question not in REMARKS
    }
    for question, value in answers.items():
        if isinstance(value, list) and value:
            ranking = _ranking(value, names, question, place)
            if isinstance(ranking, str):
                return ranking, {question}
            if both_bad:
                return tied(len(names), True), {question}
            return ranked(ranking, list(responses.values()), strength), {question}
    for question, value in texts.items():
        if len(names) == 2 and not _REWRITE.search(question) and (verdict := _choice(value, names, strength)):
            return verdict, {question}
    whole = {question: value for question, value in answers.items() if type(value) is int}
    index = {question: 0 if len(names) == 1 else _index(question, names) for question in whole}
    ratings = {place: whole[question] for question, place in index.items() if place is not None}
    if ratings:
        if len(ratings) < len(names):
            return PARTLY_RATED, set(whole)
        return Verdict(ratings=tuple(ratings[place] for place in range(len(names)))), set(whole)
    for question, value in texts.items():
        if _REWRITE.search(question):
            return Verdict(rewrite=value, rewrite_of=_index(question, names) or 0), {question}
    return NOTHING, set(answers)


def _choice(value: str, names: Sequence[str], strength: Strength) -> Verdict | None:
    word = value.strip().lower()
    if word in _TIES or word in _BOTH_BAD:
        return tied(2, word in _BOTH_BAD)
    index = _index(value, names)
    return None if index is None else preferred(index == 0, strength)


def _ranking(
    value: Sequence[Any], names: Sequence[str], question: str, place: str
) -> tuple[tuple[int, ...], ...] | str:
    ranks: dict[int, float] = {}
    for position, one in enumerate(value, start=1):
        name, rank = (one.get("value"), one.get("rank")) if isinstance(one, Mapping) else (one, None)
        index = _index(str(name), names)
        rank = position if rank is None else rank
        if index is None or index in ranks or isinstance(rank, bool) or not isinstance(rank, int | float):
            raise ExchangeError(place, f"`{question}` to rank {', '.join(names)}, each once", short(value))
        ranks[index] = rank
    if len(ranks) < len(names):
        return PARTIAL
    return groups_by_rank([ranks[index] for index in range(len(names))])


def _index(label: str, names: Sequence[str]) -> int | None:
    """The response that a label means: by its field's name, else by the number or letter that both end in."""
    if label in names:
        return names.index(label)
    ending = _ending(label)
    found = [index for index, name in enumerate(names) if ending is not None and _ending(name) == ending]
    return found[0] if len(found) == 1 else None


def _ending(name: str) -> str | None:
    found = re.search(r"(?:(\d+)|(?:^|[-_ ])([a-zA-Z]))$", name)
    return None if found is None else (found[1] or found[2].lower())


def _objects(values: Any, name: str, place: str) -> list[Mapping[str, Any]]:
    if not isinstance(values, list) or not all(isinstance(one, Mapping) for one in values):
        raise ExchangeError(place, f"`{name}` to be a list of objects", short(values))
    return values
