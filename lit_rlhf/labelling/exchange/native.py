"""Files of our own and the layouts that are read like them: candidates, rankings, pairs, votes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_rlhf.labelling.exchange.entries import (
    NOBODY,
    Entry,
    Parsed,
    Said,
    decoded,
    preferred,
    seconds_of,
    tied,
    time_of,
)
from lit_rlhf.labelling.items import Item
from lit_rlhf.labelling.verdicts import Mode, Strength, Verdict

if TYPE_CHECKING:
    from lit_rlhf.records import Row


def parse_native(path: Path, mode: Mode | None, gold: bool) -> Parsed:
    """All rows as items, those that are judged with their judgements.

    Raises:
        ValueError: a row cannot be read, or nothing can be judged.
        ExchangeError: seconds or times that are none.
    """
    from lit_rlhf.labelling.candidates import read_items, stated_verdict

    read = read_items([str(path)], mode, gold)
    parsed = Parsed([Entry(item, place=str(path)) for item in read.items], list(read.notes))
    unread = 0
    for index, row in read.judged:
        entry = parsed.entries[index]
        entry.place = row.place
        if gold:
            continue
        if row.votes:
            entry.said = _votes(row)
        elif (verdict := stated_verdict(row, entry.item.mode)) is not None:
            entry.said = [_said(row, entry.item, verdict)]
        unread += not entry.said
    if unread:
        parsed.notes.append(f"left out: {unread:,} judgements that this mode has no place for")
    judged, asked = {index for index, _ in read.judged}, set[str]()
    for index, entry in enumerate(parsed.entries):
        entry.repeats = index not in judged and entry.item.key in asked
        asked.add(entry.item.key)
    return parsed


def _said(row: Row, item: Item, verdict: Verdict) -> Said:
    columns = row.columns
    return Said(
        row.annotator or NOBODY,
        verdict,
        _shown(columns, item),
        str(columns.get("comment") or ""),
        str(columns.get("flag") or ""),
        seconds_of(columns.get("seconds"), row.place, "seconds"),
        time_of(columns.get("at"), row.place, "at"),
        str(columns["machine"]) if columns.get("machine") else None,
    )


def _shown(columns: Mapping[str, Any], item: Item) -> tuple[int, ...] | None:
    """The order that was seen, by the item's indices: of a pair's row 0 is `chosen`, wherever the item has it."""
    shown = decoded(columns.get("shown"))
    if not isinstance(shown, list) or not all(type(index) is int for index in shown):
        return None
    if "chosen" in columns and "responses" not in columns and columns["chosen"] != item.written(0):
        shown = [1 - index for index in shown]
    return tuple(shown)


def _strength(fields: Mapping[str, Any]) -> Strength:
    return "slightly" if fields.get("strength") == "slightly" else "better"


def _votes(row: Row) -> list[Said]:
    labels = decoded(row.columns.get("labels"))
    labels = labels if isinstance(labels, list) else [{}] * len(row.votes)
    said = []
    for vote, label in zip(row.votes, labels, strict=True):
        if vote.choice == 0.5:
            verdict = tied(len(row.responses), label.get("both_bad") is True)
        else:
            verdict = preferred(vote.choice == 1.0, _strength(label))
        machine = str(label["machine"]) if label.get("machine") else None
        seconds = seconds_of(label.get("seconds"), row.place, "labels.seconds")
        said.append(Said(vote.annotator or NOBODY, verdict, seconds=seconds, machine=machine))
    return said
