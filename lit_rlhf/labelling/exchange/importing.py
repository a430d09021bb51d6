"""What files hold, put into a store: items that it does not have yet, judgements that it does not have yet."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lit_rlhf.labelling.exchange.entries import NOBODY, Entry, ExchangeError, Said
from lit_rlhf.labelling.exchange.imported import UNSIGNED, Imported
from lit_rlhf.labelling.exchange.placing import place_entries
from lit_rlhf.labelling.items import Item, Judgement
from lit_rlhf.labelling.verdicts import MOST_RANKED, Verdict, VerdictError, parse_verdict

if TYPE_CHECKING:
    from lit_rlhf.labelling.store import LabelStore


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

    Raises:
        ExchangeError: a person has a program's name, or the reverse; nothing was written.
    """
    out = Imported()
    if gold:
        entries = [_as_gold(entry, out) for entry in entries]
        entries = [entry for entry in entries if entry.item.gold is not None]
    entries = [entry for entry in entries if _fits(entry.item, out)]
    before = store.items()
    placed = place_entries(entries, before)
    out.rows, out.notes = len(entries), placed.describe()
    here = {(one.task.item.number, one.annotator): one for one in store.judgements(kinds=["label", "live"])}
    last: dict[tuple[str, str], tuple[Entry, Said]] = {}
    for entry in placed.entries:
        for said in entry.said if not gold else []:
            _keep_last(last, entry, said, here, out)
    new = [(entry, said) for entry, said in last.values() if _is_new(entry.item, said, here, out)]
    _check_names(store, new)
    numbered = store.add_items([entry.item for entry in placed.entries])
    out.items = len({item.number for item in numbered} - {item.number for item in before})
    out.known_items = len({item.number for item in numbered}) - out.items
    by_key = {item.key: item for item in numbered}
    for entry, said in new:
        _record(store, by_key[entry.item.key], said, out)
        if told is not None:
            told()
    return out


def submission_of(item: Item, said: Said) -> str:
    """An id that two judgements share where the same annotator says the same of the same item at the same time."""
    verdict = said.verdict.to_json()
    content = [item.key, said.annotator, verdict, said.comment, said.flag, said.at]
    return "import-" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:40]


def _record(store: LabelStore, item: Item, said: Said, out: Imported) -> None:
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
    current = store.current(made.task.number)
    if current is None:
        out.taken_back += 1
    elif current.number != made.number:
        out.older += 1
    else:
        out.judgements += 1


def _is_new(item: Item, said: Said, here: Mapping[tuple[int, str], Judgement], out: Imported) -> bool:
    """Whether a judgement is to be added; counted where it is not."""
    current = here.get((item.number, said.annotator))
    if current is None:
        return True
    if current.verdict == said.verdict:
        out.known += 1
        return False
    later = said.at is not None and said.at > current.at
    out.older += not later
    return later


def _check_names(store: LabelStore, new: Sequence[tuple[Entry, Said]]) -> None:
    """Refuse a person under a program's name and the reverse; then write down who is a program."""
    programs = store.machines()
    kinds: dict[str, str | None] = dict.fromkeys(store.progress().by_annotator) | programs
    for entry, said in new:
        known = kinds.setdefault(said.annotator, said.machine)
        if known != said.machine:
            there, found = (f"a program ({one})" if one else "a person" for one in (known, said.machine))
            raise ExchangeError(
                entry.place,
                f"the annotator {said.annotator!r} to be {there}, as in the labelling file or in an earlier row",
                f"{found} (`machine` says which); give one of them another name",
            )
    for name, kind in kinds.items():
        if kind is not None and name not in programs:
            store.add_annotator(name, kind)


def _keep_last(
    last: dict[tuple[str, str], tuple[Entry, Said]],
    entry: Entry,
    said: Said,
    here: Mapping[tuple[int, str], Judgement],
    out: Imported,
) -> None:
    """Of an annotator's judgements of an item the latest by their times, else the last."""
    item = entry.item
    try:
        said = replace(said, verdict=_in_mode(said.verdict, item))
    except VerdictError as error:
        out.count(f"judgements that a {item.mode} cannot hold", f"{entry.place}: {error}")
        return
    if said.annotator == NOBODY:
        said = replace(said, annotator=_name_of_nobody(item, said.verdict, last, here))
        out.unsigned += 1
    name = (item.key, said.annotator)
    if name in last:
        out.repeated += 1
        earlier = last[name][1]
        if earlier.at and said.at and said.at < earlier.at:
            return
    last[name] = (entry, said)


def _name_of_nobody(
    item: Item,
    verdict: Verdict,
    last: Mapping[tuple[str, str], tuple[Entry, Said]],
    here: Mapping[tuple[int, str], Judgement],
) -> str:
    """Of somebody else each time, as far as one can tell; the same that said the same of this item here."""
    for number in itertools.count(1):
        name = UNSIGNED if number == 1 else f"{UNSIGNED}-{number}"
        current = here.get((item.number, name))
        if (item.key, name) not in last and (current is None or current.verdict == verdict):
            break
    return name


def _fits(item: Item, out: Imported) -> bool:
    """Whether an item has as many different responses as its mode compares; counted where it has not."""
    least, most = {"pairwise": (2, 2), "ranking": (2, MOST_RANKED)}.get(item.mode, (1, len(item.responses)))
    fits = least <= len(item.distinct) <= most
    if not fits:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        out.count(f"items to be judged by {item.mode}, which takes {wanted} different responses")
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
    out.count(f"{what}, which are no tests")
    return entry
