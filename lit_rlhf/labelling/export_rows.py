"""One judgement as rows of training data, and an item's judgements as votes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from lit_rlhf.labelling.candidates import OF_EACH_RESPONSE
from lit_rlhf.labelling.export_selection import Selection
from lit_rlhf.labelling.items import Item, Judgement

MARGINS = {"better": 2 / 3, "slightly": 1 / 3}
RESERVED = frozenset(
    (
        *(
            "prompt",
            "responses",
            "ranking",
            "ranks",
            "scores",
            "chosen",
            "rejected",
            "tie",
            "margin",
            "weight",
        ),
        *(
            "target",
            "response_a",
            "response_b",
            "labels",
            "response",
            "messages",
            "text",
            "conversations",
            "system",
        ),
        *("instruction", "input", "output", "completion", "completions", "answers", "history", "question"),
        *("response_1", "response_2", "response1", "response2", "preference_strength", "overall_preference"),
        *("chosen_response", "rejected_response", "score_chosen", "score_rejected", "chosen-rating"),
        *("rejected-rating", "chosen_avg_rating", "rejected_avg_rating", "helpfulness", "context"),
        *(
            "annotator",
            "annotators",
            "agreed",
            "shown",
            "seconds",
            "at",
            "id",
            "domain",
            "models",
            "strength",
        ),
        *("both_bad", "comment", "flag", "machine", "item", "judgement", "rewrite_of"),
    )
)
"""Fields that a reader of training data takes for a judgement or a text of its own, and those that an export writes:
an item's own row is not asked for them."""


def ranking_row(one: Judgement, flags: Mapping[int, str], machines: Mapping[str, str]) -> dict[str, Any]:
    """A ranking or ratings: `ranking`, tie groups of indices, best first; or `scores`, higher = better."""
    item, verdict = one.task.item, one.verdict
    assert verdict is not None
    row: dict[str, Any] = {"prompt": item.prompt, "responses": written_responses(item)}
    if verdict.ratings is not None:
        row["scores"] = list(verdict.ratings)
    else:
        row["ranking"] = [list(group) for group in verdict.ranking or ()]
    row |= _said(one, flags, machines) | {"models": list(item.models) if item.models else None}
    return with_columns(row, item)


def judged_pairs(
    one: Judgement, flags: Mapping[int, str], machines: Mapping[str, str], margins: bool = False
) -> list[dict[str, Any]]:
    """A row for every two different responses of one judgement, the strict ones first; `tie` where they are equal.

    "Both bad" is a tie for those who train, and says so in `both_bad`. `shown` is the order in which the two were
    seen, 0 = `chosen`, as that of a ranking has the indices of its responses.
    """
    item, verdict = one.task.item, one.verdict
    assert verdict is not None
    ranks = verdict.ranks() or []
    pairs = sorted(
        ((i, j) if ranks[i] <= ranks[j] else (j, i) for i, j in combinations(item.distinct, 2)),
        key=lambda pair: (ranks[pair[0]] == ranks[pair[1]], pair),
    )
    rows = []
    for better, worse in pairs:
        tie = ranks[better] == ranks[worse]
        row = pair_row(item, better, worse, tie)
        if margins and verdict.strength is not None:
            row["margin"] = MARGINS[verdict.strength]
        row |= _said(one, flags, machines)
        if one.task.seen:
            row["shown"] = [0, 1] if one.task.shown.index(better) < one.task.shown.index(worse) else [1, 0]
        rows.append(with_columns(row, item, (better, worse)))
    return rows


def written_responses(item: Item) -> list[Any]:
    """All responses as files have them: text, or turns."""
    return [item.written(index) for index in range(len(item.responses))]


def pair_row(item: Item, better: int, worse: int, tie: bool) -> dict[str, Any]:
    """Two responses of an item and which one is better."""
    row: dict[str, Any] = {
        "prompt": item.prompt,
        "chosen": item.written(better),
        "rejected": item.written(worse),
    }
    if tie:
        row["tie"] = True
    if item.models:
        row["models"] = [item.models[better], item.models[worse]]
    return row


def demonstration_row(
    one: Judgement, flags: Mapping[int, str], machines: Mapping[str, str]
) -> dict[str, Any]:
    """What an annotator wrote, as the response; `rewrite_of` is the text that it was made from."""
    item, verdict = one.task.item, one.verdict
    assert verdict is not None
    row: dict[str, Any] = {"prompt": item.prompt, "response": verdict.rewrite}
    if verdict.rewrite_of is not None:
        row["rewrite_of"] = item.responses[verdict.rewrite_of]
    return with_columns(row | _said(one, flags, machines), item)


def votes_rows(
    given: Sequence[Judgement], selection: Selection, machines: Mapping[str, str], drop_ties: bool
) -> list[dict[str, Any]]:
    """A row for every two different responses of an item: `labels`, what each of its annotators chose."""
    item = given[0].task.item
    rows = []
    for first, second in combinations(item.distinct, 2):
        labels = [_label(one, first, second, machines) for one in given]
        kept = [one for one in labels if not (drop_ties and one["choice"] == "tie")]
        selection.count("ties", len(labels) - len(kept))
        if not kept:
            continue
        row: dict[str, Any] = {
            "prompt": item.prompt,
            "response_a": item.written(first),
            "response_b": item.written(second),
            "labels": kept,
            "models": [item.models[first], item.models[second]] if item.models else None,
        }
        rows.append(with_columns(row | about_item(item, selection.flags), item, (first, second)))
    if len(item.distinct) < 2:
        selection.count("ratings of a single response, which make no pair", len(given))
    return rows


def about_item(item: Item, flags: Mapping[int, str]) -> dict[str, Any]:
    """What a row says of its item, whoever judged it."""
    return {"id": item.row_id, "domain": item.domain, "item": item.number, "flag": flags.get(item.number)}


def with_columns(row: Mapping[str, Any], item: Item, pair: tuple[int, int] | None = None) -> dict[str, Any]:
    """The fields that have a value, and those of the item's own row that clash with none.

    Args:
        row: what is written of the judgement.
        item: that was judged.
        pair: the responses that the row has, in its order, where it has two: of fields with a value for each response
            their values.
    """
    columns = {
        name: value for name, value in item.columns.items() if name not in RESERVED and name not in row
    }
    for name in OF_EACH_RESPONSE & columns.keys() if pair else ():
        if isinstance(columns[name], list) and len(columns[name]) == len(item.responses):
            columns[name] = [columns[name][index] for index in pair or ()]
    return {name: value for name, value in row.items() if value is not None} | columns


def _said(one: Judgement, flags: Mapping[int, str], machines: Mapping[str, str]) -> dict[str, Any]:
    """Who said it, when, how, and of which item."""
    verdict, task = one.verdict, one.task
    assert verdict is not None
    return {
        "strength": verdict.strength,
        "both_bad": verdict.both_bad or None,
        "annotator": one.annotator,
        "machine": machines.get(one.annotator),
        "shown": list(task.shown) if task.seen else None,
        "seconds": one.seconds,
        "at": one.at or None,
        "comment": one.comment or None,
        "judgement": one.number,
        **about_item(task.item, flags),
    }


def _label(one: Judgement, first: int, second: int, machines: Mapping[str, str]) -> dict[str, Any]:
    verdict = one.verdict
    assert verdict is not None
    ranks = verdict.ranks() or []
    order = (ranks[first] > ranks[second]) - (ranks[first] < ranks[second])
    label = {
        "labeler": one.annotator,
        "choice": {-1: "a", 0: "tie", 1: "b"}[order],
        "strength": verdict.strength,
        "both_bad": verdict.both_bad or None,
        "machine": machines.get(one.annotator),
        "judgement": one.number,
    }
    return {name: value for name, value in label.items() if value is not None}
