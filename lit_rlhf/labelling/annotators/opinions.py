"""What a program says of a task, and how often it said what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lit_rlhf.labelling.items import Task
from lit_rlhf.labelling.texts import printable
from lit_rlhf.labelling.verdicts import LONGEST_REMARK, Verdict

REASONS_SHOWN = 5
"""Different reasons to skip that are listed; the others are counted."""
UNREADABLE_IN_A_ROW = 8
"""Answers after which a program is not asked on."""


@dataclass(frozen=True)
class Opinion:
    """A verdict by the item's indices, with what there is to say about it."""

    verdict: Verdict
    comment: str = ""
    readable: bool = True
    """False where a program did answer, and nobody can say what."""


class UnreadableError(ValueError):
    """A program whose answers cannot be read, one after the other: asking it on would only use the items up.

    Args:
        count: answers in a row.
        last: of them.
        items: what becomes of their items.
    """

    def __init__(self, count: int, last: Opinion, items: str = "") -> None:
        super().__init__(
            f"{count} answers in a row could not be read, so it is not asked on{items}; the last: "
            f"{printable(last.verdict.skip or '')}."
        )


def skipped(why: str) -> Opinion:
    """Nothing is said, for this reason; a long one is cut to what a judgement can hold."""
    return Opinion(Verdict(skip=shortened(why)))


def shortened(text: str) -> str:
    """At most :data:`LONGEST_REMARK` characters, with a mark where there were more."""
    return text if len(text) <= LONGEST_REMARK else text[: LONGEST_REMARK - 1] + "…"


def shown_responses(task: Task) -> list[str]:
    """The responses in the order of the task, which is all that a program may know of them."""
    return [task.item.responses[index] for index in task.shown]


@dataclass
class Tally:
    """How often a program said what."""

    judged: int = 0
    """Judgements that it gave, skipped ones among them."""
    ties: int = 0
    """Of all the responses of an item."""
    alike: int = 0
    """Items that nobody was asked about, since their responses are all the same."""
    elsewhere: int = 0
    """Tasks that another process of the same name was quicker with."""
    reasons: Counter[str] = field(default_factory=Counter)
    """To skip."""

    def count(self, verdict: Verdict) -> None:
        """One more judgement."""
        self.judged += 1
        if verdict.skip is not None:
            self.reasons[verdict.skip] += 1
        elif verdict.ranking is not None and len(verdict.ranking) == 1:
            self.ties += 1

    @property
    def skipped(self) -> int:
        """Of the judgements, those that say nothing."""
        return self.reasons.total()

    def __add__(self, other: Tally) -> Tally:
        """What both have counted."""
        return Tally(
            self.judged + other.judged,
            self.ties + other.ties,
            self.alike + other.alike,
            self.elsewhere + other.elsewhere,
            self.reasons + other.reasons,
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {**vars(self), "reasons": dict(self.reasons)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Tally:
        """The one that :meth:`state_dict` is of."""
        return cls(**{**state, "reasons": Counter(state["reasons"])})

    def lines(self) -> Sequence[str]:
        """What there is to say, the first line for itself."""
        lines = [f"{self.judged} judged, {self.ties} of them ties, {self.skipped} skipped"]
        for reason, count in self.reasons.most_common(REASONS_SHOWN):
            lines.append(f"  {count} skipped: {printable(reason[:200])}")
        if others := self.reasons.most_common()[REASONS_SHOWN:]:
            lines.append(f"  {sum(count for _, count in others)} skipped for {len(others)} other reasons")
        if self.alike:
            lines.append(
                f"  {self.alike} more had only one response, drawn several times, and were not judged"
            )
        if self.elsewhere:
            lines.append(
                f"  {self.elsewhere} more had been judged meanwhile by another process of the same name"
            )
        return lines
