"""Judgements as Label Studio's tasks with annotations, and the labelling config that goes with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lit_rlhf.labelling.exchange.entries import TURNS, Written, as_text, seen_otherwise, several_turns
from lit_rlhf.labelling.exchange.label_studio_config import labelling_config
from lit_rlhf.labelling.items import Item, Judgement
from lit_rlhf.labelling.verdicts import MODES, Mode, Verdict


def write_tasks(judgements: Sequence[Judgement], machines: Mapping[str, str]) -> tuple[Written, str]:
    """A task an item, an annotation a judgement; and the XML of the project's labelling config.

    A project asks one thing: pairs and rankings go together, as rankings where both are there; ratings or rewrites of
    one response only where nothing is compared. The rest is counted. The models' names stay here: what a task holds
    is sent to its annotators.
    """
    out = Written([])
    mode = _mode(judgements)
    by_item: dict[int, list[Judgement]] = {}
    for one in judgements:
        why = _unfit(one, mode)
        out.count(why or "", bool(why))
        if not why:
            by_item.setdefault(one.task.item.number, []).append(one)
    most = 2
    for given in by_item.values():
        item = given[0].task.item
        most = max(most, len(item.responses))
        out.rows.append({"data": _data(item, mode), "annotations": [_annotation(one, mode) for one in given]})
        shown_once = len(item.responses) - len(item.distinct)
        out.count("responses that are identical to one of the two", shown_once if mode == "pairwise" else 0)
        out.count(TURNS, several_turns(item))
        out.count("models' names, which annotators would be sent", item.models is not None)
        out.count("other fields of the items' rows", len(item.columns))
        for one in given:
            out.count("orders in which responses were seen", seen_otherwise(one))
            out.count("judgements of programs, not marked as such", one.annotator in machines)
    if out.rows:
        out.notes.append(
            "Label Studio knows annotators by their e-mail address: it takes judgements of names that it does not know "
            "for those of who imports them"
        )
    return out, labelling_config(mode, most)


def _mode(judgements: Sequence[Judgement]) -> Mode:
    modes = {one.task.item.mode for one in judgements}
    if "ranking" in modes:
        return "ranking"
    return next((mode for mode in MODES if mode in modes), "pairwise")


def _unfit(one: Judgement, mode: Mode) -> str | None:
    item = one.task.item
    if one.verdict is None:
        return "judgements taken back"
    if item.mode not in ({"pairwise", "ranking"} if mode == "ranking" else {mode}):
        return f"{item.mode} judgements: a project asks one thing, this one {mode} (export them apart, or as csv)"
    if mode in ("rating", "rewrite") and len(item.responses) > 1:
        return f"{mode} judgements of several responses at once"
    return None


def _data(item: Item, mode: Mode) -> dict[str, Any]:
    data: dict[str, Any] = {"prompt": as_text(item.prompt)}
    if not isinstance(item.prompt, str):
        data["messages"] = item.prompt
    if item.row_id is not None:
        data["id"] = item.row_id
    if item.domain is not None:
        data["domain"] = item.domain
    if mode == "pairwise":
        first, second = item.distinct
        return data | {"response_a": item.responses[first], "response_b": item.responses[second]}
    if mode == "ranking":
        items = [
            {"id": f"r{index}", "title": f"Response {index + 1}", "body": text}
            for index, text in enumerate(item.responses)
        ]
        return data | {"items": items}
    return data | {"response": item.responses[0]}


def _annotation(one: Judgement, mode: Mode) -> dict[str, Any]:
    verdict = one.verdict
    assert verdict is not None
    texts = {"comment": verdict.skip or one.comment, "flag": one.flag}
    results = [] if verdict.skip is not None else _results(verdict, one.task.item, mode)
    results += [
        {"from_name": name, "to_name": "prompt", "type": "textarea", "value": {"text": [text]}}
        for name, text in texts.items()
        if text
    ]
    annotation: dict[str, Any] = {
        "completed_by": {"email": one.annotator},
        "was_cancelled": verdict.skip is not None,
        "result": [{"id": f"{one.number}-{place}", **result} for place, result in enumerate(results)],
    }
    if one.seconds is not None:
        annotation["lead_time"] = one.seconds
    if one.at:
        annotation["created_at"] = one.at
    return annotation


def _results(verdict: Verdict, item: Item, mode: Mode) -> list[dict[str, Any]]:
    if verdict.ratings is not None:
        return [_result("rating", "response", "rating", {"rating": verdict.ratings[0]})]
    if verdict.rewrite is not None:
        return [_result("correction", "response", "textarea", {"text": [verdict.rewrite]})]
    ranking = verdict.ranking or ()
    results = []
    if mode == "ranking":
        buckets, rank = {}, 1
        for group in ranking:
            buckets[f"rank_{rank}"] = [f"r{index}" for index in group]
            rank += len(group)
        results.append(_result("ranking", "responses", "ranker", {"ranker": buckets}))
    elif len(ranking) == 2:
        selected = "left" if item.distinct[0] in ranking[0] else "right"
        results.append(_result("comparison", "comparison", "pairwise", {"selected": selected}))
    words = {"both bad": verdict.both_bad, "slightly better": verdict.strength == "slightly"}
    words["tie"] = mode == "pairwise" and len(ranking) == 1 and not verdict.both_bad
    results += [
        _result("verdict", "prompt", "choices", {"choices": [word]}) for word, said in words.items() if said
    ]
    return results


def _result(name: str, of: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"from_name": name, "to_name": of, "type": kind, "value": value}
