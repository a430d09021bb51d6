"""Judgements as Argilla's records, in the form of `record.to_dict()`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lit_rlhf.labelling.exchange.entries import TURNS, Written, seen_otherwise, several_turns
from lit_rlhf.labelling.items import Item, Judgement


def write_records(judgements: Sequence[Judgement], machines: Mapping[str, str]) -> Written:
    """A record an item: fields `prompt` and `response_1`, `response_2`, …; answers by question and annotator.

    Questions are `ranking`, `strength` (better, slightly better, both bad), `rating_1`, … (`rating` of one response),
    `correction_1`, …, `comment` and `flag`. The models' names stay here: a record is sent to its annotators.
    """
    out = Written([])
    records: dict[int, dict[str, Any]] = {}
    for one in judgements:
        item, verdict = one.task.item, one.verdict
        if verdict is None:
            continue
        if item.number not in records:
            records[item.number] = _record(item)
            out.count(TURNS, several_turns(item))
            out.count("models' names, which annotators would be sent", item.models is not None)
            out.count("other fields of the items' rows", len(item.columns))
        status = "submitted" if verdict.skip is None else "discarded"
        for question, value in _answers(one).items():
            answer = {"value": value, "user_id": one.annotator, "status": status}
            records[item.number]["responses"].setdefault(question, []).append(answer)
        out.count("orders in which responses were seen", seen_otherwise(one))
        out.count("times at which and that judgements took", bool(one.at) or one.seconds is not None)
        out.count("judgements of programs, not marked as such", one.annotator in machines)
    out.rows = list(records.values())
    tied = sum(_has_tie(one) for one in judgements)
    if tied:
        out.notes.append(
            f"{tied:,} rankings with ties stand as {{value, rank}}, as Argilla's HTTP API has them; its Python package "
            "takes names in order, without ties"
        )
    if out.rows:
        out.notes.append(
            "`user_id` has annotators' names: a server of Argilla wants the ids of its own users there"
        )
    return out


def _record(item: Item) -> dict[str, Any]:
    texts = {f"response_{number}": text for number, text in enumerate(item.responses, start=1)}
    return {
        "id": item.row_id or f"item-{item.number}",
        "fields": {"prompt": item.prompt, **texts},
        "metadata": {} if item.domain is None else {"domain": item.domain},
        "suggestions": {},
        "responses": {},
        "vectors": {},
    }


def _answers(one: Judgement) -> dict[str, Any]:
    verdict = one.verdict
    assert verdict is not None
    answers: dict[str, Any] = {}
    if verdict.ranking is not None:
        ranks = verdict.ranks() or []
        order = [index for group in verdict.ranking for index in group]
        if _has_tie(one):
            answers["ranking"] = [{"value": f"response_{index + 1}", "rank": ranks[index]} for index in order]
        else:
            answers["ranking"] = [f"response_{index + 1}" for index in order]
        if verdict.both_bad or verdict.strength is not None:
            words = {"better": "better", "slightly": "slightly better", None: "both bad"}
            answers["strength"] = words[verdict.strength]
    elif verdict.ratings is not None:
        single = len(verdict.ratings) == 1
        for number, rating in enumerate(verdict.ratings, start=1):
            answers["rating" if single else f"rating_{number}"] = rating
    elif verdict.rewrite is not None:
        answers[f"correction_{(verdict.rewrite_of or 0) + 1}"] = verdict.rewrite
    remarks = {"comment": verdict.skip or one.comment, "flag": one.flag}
    return answers | {name: text for name, text in remarks.items() if text}


def _has_tie(one: Judgement) -> bool:
    ranking = one.verdict.ranking if one.verdict else None
    return any(len(group) > 1 for group in ranking or ())
