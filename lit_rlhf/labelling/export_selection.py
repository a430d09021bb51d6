"""Which judgements are exported, and what became of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lit_rlhf.labelling.items import JUDGED, Judgement

KINDS_IN_WORDS = {
    "gold": "tests (gold)",
    "practice": "exercises (practice)",
    "repeat": "repeats, asked for self-consistency",
    "swap": "repeats in the reverse order",
}


@dataclass
class Selection:
    """What goes into an export."""

    judgements: list[Judgement] = field(default_factory=list)
    """In order of their numbers."""
    flags: dict[int, str] = field(default_factory=dict)
    """What is wrong with an item, by its number, of all who said so."""
    left_out: dict[str, int] = field(default_factory=dict)
    next: int = 0
    machine_judgements: int = 0

    def count(self, what: str, how_many: int = 1) -> None:
        """Remember that something was left out; none is not mentioned."""
        if how_many:
            self.left_out[what] = self.left_out.get(what, 0) + how_many


def select(
    judgements: Sequence[Judgement],
    machines: Mapping[str, str],
    since: int = 0,
    people_only: bool = False,
    without_flagged: bool = False,
    whole_items: bool = False,
    skips: bool = False,
) -> Selection:
    """The judgements that are exported: no tests or repeats, no skips, one of an annotator on an item, the latest.

    Args:
        judgements: All current ones.
        machines: Annotators that are programs.
        since: Only those with a higher number are taken, and counted where they are not.
        people_only: Leave out what programs said.
        without_flagged: Leave out items that anybody flagged.
        whole_items: Take all judgements of an item that has one above `since`.
        skips: Take them too, for formats that hold them.
    """
    ordered = sorted(judgements, key=lambda one: one.number)
    found = Selection(next=max([since, *(one.number for one in ordered)]), flags=_flags(ordered))
    taken: dict[tuple[int, str], Judgement] = {}
    for one in ordered:
        reason = _why_not(one, machines if people_only else {}, found.flags if without_flagged else {}, skips)
        if reason:
            found.count(reason, one.number > since)
            continue
        key = (one.task.item.number, one.annotator)
        if key in taken:
            found.count(
                "judgements that their annotator gave again elsewhere; the latest counts", one.number > since
            )
            del taken[key]
        taken[key] = one
    new = {one.task.item.number for one in taken.values() if one.number > since}
    found.judgements = [
        one for one in taken.values() if one.number > since or (whole_items and one.task.item.number in new)
    ]
    found.machine_judgements = sum(one.annotator in machines for one in found.judgements)
    return found


def _why_not(one: Judgement, machines: Mapping[str, str], flagged: Mapping[int, str], skips: bool) -> str:
    """Why a judgement is not exported, in words; empty where it is."""
    if one.verdict is None:
        return "judgements taken back"
    if one.task.kind not in JUDGED:
        return KINDS_IN_WORDS[one.task.kind]
    if one.verdict.skip is not None and not skips:
        return "skipped"
    if one.annotator in machines:
        return "judgements of programs (--people-only)"
    if one.task.item.number in flagged:
        return "judgements of flagged items (--without-flagged)"
    return ""


def _flags(judgements: Sequence[Judgement]) -> dict[int, str]:
    flags: dict[int, list[str]] = {}
    for one in judgements:
        said = flags.setdefault(one.task.item.number, [])
        if one.flag and one.flag not in said:
            said.append(one.flag)
    return {number: "; ".join(said) for number, said in flags.items() if said}
