"""Entries of files by the items that ask the same: those of the store, else the first of the files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lit_rlhf.labelling.candidates import OF_EACH_RESPONSE
from lit_rlhf.labelling.exchange.entries import Entry
from lit_rlhf.labelling.export_rows import RESERVED
from lit_rlhf.labelling.items import Item
from lit_rlhf.labelling.verdicts import renumbered

NAMED = 5
"""Ids that a line names."""


@dataclass
class Placed:
    """What became of the rows."""

    entries: list[Entry] = field(default_factory=list)
    """By the indices of their items; those that ask the same have the same item."""
    not_kept: list[str] = field(default_factory=list)
    """Of rows that ask what is asked already and say something else of it: their ids, else their places."""

    def describe(self) -> list[str]:
        """A line where something is not kept."""
        if not self.not_kept:
            return []
        more = f" and {len(self.not_kept) - NAMED:,} more" if len(self.not_kept) > NAMED else ""
        return [
            f"left out: id and other fields of {len(self.not_kept):,} rows that ask what another row, or an item here, "
            f"asks ({', '.join(self.not_kept[:NAMED])}{more}); what was said of them is kept"
        ]


def place_entries(entries: Sequence[Entry], before: Sequence[Item]) -> Placed:
    """Bring rows to the items that they ask.

    Args:
        entries: of all files.
        before: the store's items.
    """
    known = {asked_by(item): item for item in reversed(before)}
    out = Placed()
    for entry in entries:
        kept = known.setdefault(asked_by(entry.item), entry.item)
        if kept is not entry.item and not entry.repeats and _loses(entry.item, kept):
            out.not_kept.append(entry.item.row_id or entry.place)
        out.entries.append(_placed(entry, kept))
    return out


def asked_by(item: Item) -> str:
    """What two items share that ask the same; two responses may be asked for as a pair or as a ranking."""
    return (replace(item, mode="ranking") if item.mode == "pairwise" else item).key


def _placed(entry: Entry, item: Item) -> Entry:
    new = entry.item
    free = list(range(len(item.responses)))
    place: dict[int, list[int]] = {}
    for index, text in enumerate(new.responses):
        there = next(one for one in free if item.responses[one] == text)
        free.remove(there)
        place[index] = [there]
    first = {index: item.responses.index(text) for index, text in enumerate(item.responses)}
    if new.priority is not None:
        item = replace(item, priority=new.priority)
    if new.gold is not None:
        explanation = new.explanation or item.explanation
        item = replace(item, gold=renumbered(new.gold, place), explanation=explanation)
    moved = [
        replace(
            said,
            verdict=renumbered(said.verdict, place),
            shown=None if said.shown is None else _moved(said.shown, place, first),
        )
        for said in entry.said
    ]
    return replace(entry, item=item, said=moved)


def _moved(
    shown: Sequence[int], place: dict[int, list[int]], first: dict[int, int]
) -> tuple[int, ...] | None:
    return tuple(first[place[index][0]] for index in shown) if set(shown) <= set(place) else None


def _loses(new: Item, kept: Item) -> bool:
    """Whether a row says of its item what the item that is kept does not say."""
    if new.row_id not in (None, kept.row_id, f"item-{kept.number}") or new.domain not in (None, kept.domain):
        return True
    if new.models is not None and sorted(new.models) != sorted(kept.models or ()):
        return True
    return any(
        _cell(value) != _cell(kept.columns.get(name))
        for name, value in new.columns.items()
        if name not in RESERVED | OF_EACH_RESPONSE
    )


def _cell(value: Any) -> str:
    """A value as a cell of CSV has it, since a file may have been one."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)
