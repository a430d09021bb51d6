"""Judgements to export, made without a store."""

from __future__ import annotations

from typing import Any

from lit_rlhf.labelling.items import Item, Judgement, Task
from lit_rlhf.labelling.verdicts import Verdict

PAIR = Item("pairwise", "p1", ("x", "y"), row_id="row 1", models=("m-x", "m-y"), domain="d", number=1)
TRIPLE = Item("ranking", "p2", ("a", "b", "c"), row_id="row 2", number=2)
FIRST = Verdict(((0,), (1,)), "better")
SECOND = Verdict(((1,), (0,)), "slightly")
TIE = Verdict(((0, 1),))
BOTH_BAD = Verdict(((0, 1),), both_bad=True)


def judged(number: int, item: Item, annotator: str, verdict: Verdict | None, **said: Any) -> Judgement:
    """A judgement; `kind`, `shown` and `seen` are its task's."""
    kind, shown, seen = said.pop("kind", "label"), said.pop("shown", item.distinct), said.pop("seen", True)
    return Judgement(number, Task(number, item, annotator, kind, shown, seen), verdict, **said)


def order(*groups: Any) -> Verdict:
    """A ranking of responses or of tie groups: ``order(2, (0, 1))``."""
    return Verdict(tuple((group,) if isinstance(group, int) else group for group in groups))
