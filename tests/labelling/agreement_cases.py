"""Judgements for the tests of agreement, written as letters and digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lit_rlhf.labelling.items import Item, Judgement, Kind, Task
from lit_rlhf.labelling.verdicts import Mode, Ranking, Verdict

NAMES = ("ann", "bob", "cid", "dee")
LETTERS = {
    "A": Verdict(((0,), (1,)), "better"),
    "a": Verdict(((0,), (1,)), "slightly"),
    "=": Verdict(((0, 1),)),
    "!": Verdict(((0, 1),), both_bad=True),
    "b": Verdict(((1,), (0,)), "slightly"),
    "B": Verdict(((1,), (0,)), "better"),
    "?": Verdict(skip="not my language"),
}
"""A pair's verdicts; a dot is none."""


def pair(number: int, first: str = "one", second: str = "other", **fields: Any) -> Item:
    return Item("pairwise", f"prompt {number}", (first, second), number=number, **fields)


def said(
    item: Item,
    verdict: Verdict | str,
    annotator: str = "ann",
    kind: Kind = "label",
    shown: Sequence[int] | None = None,
    **fields: Any,
) -> Judgement:
    """One judgement; shown in the item's order unless told otherwise, and () = in one that nobody knows."""
    said.count += 1
    verdict = LETTERS[verdict] if isinstance(verdict, str) else verdict
    order = item.distinct if shown is None else tuple(shown)
    task = Task(said.count, item, annotator, kind, order or item.distinct, seen=bool(order))
    return Judgement(said.count, task, verdict, **fields)


said.count = 0


def pairs_of(*words: str) -> list[Judgement]:
    """A word an item, a letter an annotator."""
    return [
        said(pair(number), letter, name)
        for number, word in enumerate(words, 1)
        for name, letter in zip(NAMES, word)
        if letter != "."
    ]


def ranked(ranks: str) -> Verdict:
    """``2114``: the rank of each response."""
    groups: Ranking = tuple(
        tuple(index for index, one in enumerate(ranks) if one == rank) for rank in sorted(set(ranks))
    )
    return Verdict(groups)


def rankings_of(*rows: str) -> list[Judgement]:
    """A row an item, such as ``1234 1243 2134``, a word an annotator; ``-`` is none."""
    return [
        said(several(number, len(row.split()[0])), ranked(word), name)
        for number, row in enumerate(rows, 1)
        for name, word in zip(NAMES, row.split())
        if word != "-"
    ]


def several(number: int, responses: int, mode: Mode = "ranking", **fields: Any) -> Item:
    return Item(mode, f"prompt {number}", tuple("abcdefghi"[:responses]), number=number, **fields)


def ratings_of(*words: str) -> list[Judgement]:
    """A word an item, a digit an annotator."""
    return [
        said(several(number, 1, "rating"), Verdict(ratings=(int(digit),)), name)
        for number, word in enumerate(words, 1)
        for name, digit in zip(NAMES, word)
        if digit != "."
    ]


def with_responses_turned(judgement: Judgement) -> Judgement:
    """The same judgement of the same item, whose responses stand in the reverse order."""
    last = len(judgement.task.item.responses) - 1
    verdict = judgement.verdict
    assert verdict is not None
    ranking = verdict.ranking and tuple(
        tuple(sorted(last - one for one in group)) for group in verdict.ranking
    )
    ratings = verdict.ratings and verdict.ratings[::-1]
    item = replace(judgement.task.item, responses=judgement.task.item.responses[::-1])
    shown = tuple(last - one for one in judgement.task.shown)
    return replace(
        judgement,
        verdict=replace(verdict, ranking=ranking, ratings=ratings),
        task=replace(judgement.task, item=item, shown=shown),
    )


def by_name(measures: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {one["name"]: one for one in measures}
    assert len(found) == len(measures)
    return found


def values(measures: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    return {name: one["value"] for name, one in by_name(measures).items()}
