"""What files hold, put into a store: items that it does not have yet, judgements that it does not have yet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lit_rlhf.labelling.exchange.entries import NOBODY, Entry, Said, messages_of
from lit_rlhf.labelling.items import Item, Judgement
from lit_rlhf.labelling.verdicts import MOST_RANKED, Verdict, VerdictError, parse_verdict, renumbered

if TYPE_CHECKING:
    from lit_rlhf.labelling.store import LabelStore

UNSIGNED = "unsigned"
"""Annotator here of judgements whose file names none; of several of one item also -2, -3."""


@dataclass
class Imported:
    """What came of an import."""

    items: int = 0
    """New in the store."""
    known_items: int = 0
    judgements: int = 0
    """New in the store."""
    known: int = 0
    """Judgements that their annotator had made here already."""
    older: int = 0
    """Judgements that differ from what their annotator says here, and are no later by the file's own times."""
    repeated: int = 0
    """Judgements whose annotator judges the same item once more in the files; the last one counts."""
    unsigned: int = 0
    """Judgements in the files whose annotator is not named."""
    not_held: dict[str, int] = field(default_factory=dict)
    """Judgements that cannot be kept here, by why."""

    def describe(self) -> list[str]:
        """A line for each thing to be said."""
        lines = [
            f"{self.items:,} items added, {self.known_items:,} were there",
            f"{self.judgements:,} judgements added, {self.known:,} were there",
        ]
        if self.older:
            lines.append(
                f"left out: {self.older:,} judgements other than what the same annotator says here, and not later "
                "by their own time"
            )
        if self.repeated:
            lines.append(
                f"left out: {self.repeated:,} judgements that their annotator gave again in the files; the last counts"
            )
        lines += [f"left out: {count:,} {what}" for what, count in self.not_held.items()]
        if self.unsigned:
            lines.append(
                f"{self.unsigned:,} judgements name nobody: they are by {UNSIGNED!r}, and -2, -3 where several judge "
                "an item"
            )
        return lines


def import_entries(
    store: LabelStore, entries: Sequence[Entry], gold: bool = False, told: Callable[[], None] | None = None
) -> Imported:
    """Add items and judgements; the same again adds nothing.

    Two items are one where they ask the same of the same responses, in whatever order these stand, and a prompt that
    is text is the same as one turn of a user. A judgement has an id made of its item, annotator and content. Where an
    annotator says something else here by now, the judgement in the file takes its place only if it is later.

    Args:
        store: to add to.
        entries: of all files.
        gold: whether what is said of an item is its known answer, which becomes part of it.
        told: called after each judgement, for progress.
    """
    out = Imported()
    if gold:
        entries = [_as_gold(entry, out) for entry in entries]
        entries = [entry for entry in entries if entry.item.gold is not None]
    entries = [entry for entry in entries if _fits(entry.item, out)]
    before = store.items()
    known = {_same(item): item for item in reversed(before)}
    placed = [_placed(entry, known) for entry in entries]
    numbered = store.add_items([entry.item for entry in placed])
    out.items = len({item.number for item in numbered} - {item.number for item in before})
    out.known_items = len({item.number for item in numbered}) - out.items
    here = {(one.task.item.number, one.annotator): one for one in store.judgements(kinds=["label", "live"])}
    last: dict[tuple[int, str], tuple[Item, Said]] = {}
    for item, entry in zip(numbered, placed, strict=True):
        for said in entry.said if not gold else []:
            _keep_last(last, item, said, out)
    for item, said in last.values():
        _record(store, item, said, here, out)
        if told is not None:
            told()
    return out


def submission_of(item: Item, said: Said) -> str:
    """An id that two judgements share where the same annotator says the same of the same item at the same time."""
    verdict = said.verdict.to_json()
    content = [item.key, said.annotator, verdict, said.comment, said.flag, said.at]
    return "import-" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:40]


def _record(
    store: LabelStore, item: Item, said: Said, here: dict[tuple[int, str], Judgement], out: Imported
) -> None:
    current = here.get((item.number, said.annotator))
    if current is not None:
        if current.verdict == said.verdict:
            out.known += 1
            return
        if said.at is None or said.at <= current.at:
            out.older += 1
            return
    if said.machine is not None:
        store.add_annotator(said.annotator, said.machine)
    shown = said.shown if said.shown and sorted(said.shown) == list(item.distinct) else None
    made = store.record(
        item.number,
        said.annotator,
        said.verdict,
        submission=submission_of(item, said),
        shown=shown,
        comment=said.comment,
        flag=said.flag,
        seconds=said.seconds,
        at=said.at,
    )
    out.judgements += 1
    here[(item.number, said.annotator)] = made


def _keep_last(last: dict[tuple[int, str], tuple[Item, Said]], item: Item, said: Said, out: Imported) -> None:
    """Of an annotator's judgements of an item the latest by their times, else the last."""
    try:
        verdict = _in_mode(said.verdict, item)
    except VerdictError as error:
        what = f"judgements that a {item.mode} cannot hold ({error})"
        out.not_held[what] = out.not_held.get(what, 0) + 1
        return
    said = replace(said, verdict=verdict)
    if said.annotator == NOBODY:  # each by somebody else, as far as one can tell
        number = 1
        while (item.number, f"{UNSIGNED}-{number}" if number > 1 else UNSIGNED) in last:
            number += 1
        said = replace(said, annotator=f"{UNSIGNED}-{number}" if number > 1 else UNSIGNED)
        out.unsigned += 1
    name = (item.number, said.annotator)
    if name in last:
        out.repeated += 1
        earlier = last[name][1]
        if earlier.at and said.at and said.at < earlier.at:
            return
    last[name] = (item, said)


def _fits(item: Item, out: Imported) -> bool:
    """Whether an item has as many different responses as its mode compares; counted where it has not."""
    least, most = {"pairwise": (2, 2), "ranking": (2, MOST_RANKED)}.get(item.mode, (1, len(item.responses)))
    fits = least <= len(item.distinct) <= most
    if not fits:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        what = f"items to be judged by {item.mode}, which takes {wanted} different responses"
        out.not_held[what] = out.not_held.get(what, 0) + 1
    return fits


def _in_mode(verdict: Verdict, item: Item) -> Verdict:
    """The verdict as the item's mode has it: a pair says how much better, a ranking does not.

    Raises:
        VerdictError: the mode has no place for it.
    """
    if verdict.ranking is not None:
        strength = (
            (verdict.strength or "better") if item.mode == "pairwise" and len(verdict.ranking) == 2 else None
        )
        verdict = replace(verdict, strength=strength)
    return parse_verdict(verdict.to_json(), item.mode, len(item.responses))


def _placed(entry: Entry, known: dict[str, Item]) -> Entry:
    """The entry by the indices of the item that asks the same, if there was one before it."""
    item = known.setdefault(_same(entry.item), entry.item)
    if entry.item.priority is not None:
        item = replace(item, priority=entry.item.priority)
    if (item.prompt, item.responses) == (entry.item.prompt, entry.item.responses):
        return replace(entry, item=item)
    free = list(range(len(item.responses)))
    place: dict[int, list[int]] = {}
    for index, text in enumerate(entry.item.responses):
        new = next(one for one in free if item.responses[one] == text)
        free.remove(new)
        place[index] = [new]
    first = {index: item.responses.index(text) for index, text in enumerate(item.responses)}
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


def _same(item: Item) -> str:
    """What two items share that ask the same, whatever the order of their responses."""
    mode = "ranking" if item.mode == "pairwise" else item.mode  # a pair may be asked for in either
    asked = [mode, messages_of(item.prompt), sorted(item.responses), item.gold is not None]
    return json.dumps(asked, sort_keys=True)


def _as_gold(entry: Entry, out: Imported) -> Entry:
    """The item as a test, whose answer is the one thing that was said of it."""
    if entry.item.gold is not None:
        return entry
    verdicts: list[Verdict] = [said.verdict for said in entry.said if said.verdict.skip is None]
    answers = list(dict.fromkeys(verdicts))
    if len(answers) == 1:
        comments = [said.comment for said in entry.said if said.comment]
        return replace(
            entry, item=replace(entry.item, gold=answers[0], explanation="\n".join(comments)), said=[]
        )
    what = "items without an answer" if not answers else "items whose annotators disagree on the answer"
    what += ", which are no tests"
    out.not_held[what] = out.not_held.get(what, 0) + 1
    return entry
