"""What a row of any format comes to: an item, and what was said of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from lit_rlhf.labelling.columns import check_text, plain_fields
from lit_rlhf.labelling.items import Item, Judgement, Prompt
from lit_rlhf.labelling.verdicts import Mode, Ranking, Strength, Verdict

NOBODY = ""
"""Annotator of judgements whose file names none."""
PROMPT_NAMES = ("prompt", "instruction", "question", "query", "context", "input", "text")
"""Fields that a prompt is looked for in, where a tool leaves their names to its users."""

TURNS = "responses of several turns, written as one text"


class ExchangeError(ValueError):
    """A row that cannot be read.

    Args:
        place: ``file:line``.
        expected: What should have stood there.
        found: What stood there.
    """

    def __init__(self, place: str, expected: str, found: str) -> None:
        super().__init__(f"{place}: expected {expected}, found {found}")


@dataclass(frozen=True)
class Said:
    """A judgement in a file, by the indices of its item."""

    annotator: str
    verdict: Verdict
    shown: tuple[int, ...] | None = None
    """The order in which the distinct responses were seen; None = the file does not say."""
    comment: str = ""
    flag: str = ""
    seconds: float | None = None
    at: str | None = None
    machine: str | None = None
    """What kind of program it is by; None = a person."""


@dataclass
class Entry:
    """A row: an item with what its file says of it."""

    item: Item
    said: list[Said] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """What the row holds that no judgement is made of, in words that are the same for all rows."""
    notes: list[str] = field(default_factory=list)
    """What else ought to be said of the row, in words that are the same for all rows."""
    place: str = ""
    """``file:line``."""
    repeats: bool = False
    """Asks what an earlier row of its file asks, which a note of the file says."""


@dataclass
class Parsed:
    """All that files hold."""

    entries: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Written:
    """Rows in another tool's format, and what it cannot hold."""

    rows: list[dict[str, Any]]
    not_held: dict[str, int] = field(default_factory=dict)
    """What was left out, in words, and how often."""
    notes: list[str] = field(default_factory=list)

    def count(self, what: str, how_many: int = 1) -> None:
        """Remember that something does not fit; none is not mentioned."""
        if how_many:
            self.not_held[what] = self.not_held.get(what, 0) + how_many


def make_plain(entry: Entry) -> int:
    """Make of the item's other fields what JSON can spell; how many of their numbers became null.

    Raises:
        FieldError: a field, or a text that would be kept, cannot be stored.
    """
    item = entry.item
    columns, nulls = plain_fields(item.columns, entry.place)
    entry.item = replace(item, columns=columns)
    prompt = [item.prompt] if isinstance(item.prompt, str) else [turn["content"] for turn in item.prompt]
    texts = [("prompt", text) for text in prompt] + [("responses", text) for text in item.responses]
    texts += [("models", name) for name in item.models or ()]
    texts += [("id", item.row_id), ("domain", item.domain)]
    for said in entry.said:
        texts += [("annotator", said.annotator), ("machine", said.machine), ("comment", said.comment)]
        texts += [("flag", said.flag), ("skip", said.verdict.skip), ("rewrite", said.verdict.rewrite)]
    for name, text in texts:
        check_text(text or "", name, entry.place)
    return nulls


def several_turns(item: Item) -> int:
    """How many responses have several turns, which other tools get as one text."""
    return sum(not isinstance(turns, str) and len(turns) > 1 for turns in item.turns or ())


def seen_otherwise(one: Judgement) -> bool:
    """Whether a judgement's responses were seen in another order than their item has them."""
    return one.task.seen and list(one.task.shown) != sorted(one.task.shown)


def mode_of(verdicts: Sequence[Verdict], responses: Sequence[str], mode: Mode | None = None) -> Mode:
    """How an item is judged: as its judgements are, else as asked for, else by how many responses differ."""
    for verdict in verdicts:
        if verdict.ratings is not None:
            return "rating"
        if verdict.rewrite is not None:
            return "rewrite"
    different = len(set(responses))
    if any(verdict.ranking is not None for verdict in verdicts):
        return "pairwise" if different == 2 else "ranking"
    return mode or ("rating" if len(responses) == 1 else "pairwise" if different == 2 else "ranking")


def preferred(first: bool, strength: Strength = "better") -> Verdict:
    """The first of two responses is better, or the second."""
    return Verdict(((0,), (1,)) if first else ((1,), (0,)), strength)


def tied(responses: int, both_bad: bool = False) -> Verdict:
    """All responses are equal."""
    return Verdict((tuple(range(responses)),), both_bad=both_bad)


def ranked(ranking: Ranking, responses: Sequence[str], strength: Strength | None = None) -> Verdict:
    """A ranking, which of two different responses says `better` where the file does not say how much."""
    if len(set(responses)) == len(ranking) == 2:
        return Verdict(ranking, strength or "better")
    return Verdict(ranking)


def groups_by_rank(ranks: Sequence[float]) -> Ranking:
    """Tie groups, best first, of a rank a response, 1 = best.

    >>> groups_by_rank([2, 1, 2])
    ((1,), (0, 2))
    """
    return tuple(
        tuple(index for index, rank in enumerate(ranks) if rank == place) for place in sorted(set(ranks))
    )


def messages_of(prompt: Prompt) -> list[dict[str, Any]]:
    """A prompt as turns; text is one turn of the user."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def as_text(prompt: Prompt) -> str:
    """A prompt to be read: turns with their roles, one turn of the user as it is."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and prompt[0].get("role") == "user":
        return str(prompt[0].get("content"))
    return "\n\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in prompt)


def read_prompt(value: Any, place: str, name: str = "prompt") -> Prompt:
    """Text, or turns of role and content.

    Raises:
        ExchangeError: neither.
    """
    if isinstance(value, str):
        return value
    turns: list[Any] = value if isinstance(value, list) and value else [None]
    read = []
    for turn in turns:
        said = turn if isinstance(turn, Mapping) else {}
        role, content = said.get("role"), content_text(said.get("content"))
        if content is None or not isinstance(role, str):
            raise ExchangeError(place, f"`{name}` to be text or turns of role and content", short(value))
        read.append({"role": role, "content": content})
    return read


def content_text(content: Any) -> str | None:
    """The text of a turn, whose content is text or a list of parts; None where a part is no text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return None
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
    images = any(isinstance(part, Mapping) and part.get("image") for part in content)
    return None if images or not all(isinstance(text, str) for text in texts) else "\n".join(map(str, texts))


def seconds_of(value: Any, place: str, name: str) -> float | None:
    """A duration, None where there is none.

    Raises:
        ExchangeError: no number of 0 or more.
    """
    if value in (None, ""):
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if isinstance(value, bool) or not 0 <= seconds < float("inf"):
        raise ExchangeError(place, f"`{name}` to be seconds", short(value))
    return seconds


def time_of(value: Any, place: str, name: str) -> str | None:
    """A moment in ISO 8601, UTC; from seconds since 1970 too. None where there is none.

    Raises:
        ExchangeError: it is neither.
    """
    if value in (None, ""):
        return None
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            moment = datetime.fromtimestamp(value, UTC)
        else:
            moment = datetime.fromisoformat(str(value))
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise ExchangeError(place, f"`{name}` to be a time in ISO 8601", short(value)) from None
    return moment.isoformat(timespec="milliseconds")


def decoded(value: Any) -> Any:
    """Lists that stand as JSON in a cell, as lists; anything else as it is."""
    if isinstance(value, str) and value[:1] == "[":
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value


def short(value: Any) -> str:
    """A value in a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
