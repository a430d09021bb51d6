"""Battles of two models as Chatbot Arena publishes them.

``model_a``, ``model_b``, ``winner`` of ``model_a``, ``model_b``, ``tie`` and ``tie (bothbad)`` (``both_bad`` in later
releases), ``conversation_a`` and ``conversation_b`` as turns, ``judge``; contents may be lists of parts, and a
``full_conversation`` has the rounds before this one. The columns of the competition of 2024 are read too: ``prompt``,
``response_a``, ``response_b`` as JSON lists of turns, and ``winner_model_a``, ``winner_model_b``, ``winner_tie``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from lit_rlhf.labelling.exchange.entries import (
    NOBODY,
    TURNS,
    Entry,
    ExchangeError,
    Said,
    Written,
    content_text,
    decoded,
    messages_of,
    mode_of,
    preferred,
    several_turns,
    short,
    tied,
    time_of,
)
from lit_rlhf.labelling.items import Item, Judgement
from lit_rlhf.labelling.verdicts import Mode, Verdict

WINNERS = {
    "model_a": preferred(True),
    "model_b": preferred(False),
    "tie": tied(2),
    "tie (bothbad)": tied(2, both_bad=True),
    "both_bad": tied(2, both_bad=True),
    "bothbad": tied(2, both_bad=True),
}
KEPT = ("language", "category_tag", "is_code", "evaluation_session_id", "evaluation_order")
"""Fields of a battle that go along with its item."""
DIFFERENT_TURNS = "battles of several turns whose earlier answers differ, which have no prompt in common"


def parse_battle(fields: Mapping[str, Any], place: str, mode: Mode | None = None) -> Entry | str:
    """A battle as a pair; or why it is none, in words.

    Raises:
        ExchangeError: a field is not what its name says.
    """
    winner = _winner(fields, place)
    try:
        first, second = (_conversation(fields, side, place) for side in "ab")
    except _Unreadable as why:
        return str(why)
    if first[:-1] != second[:-1]:
        return DIFFERENT_TURNS
    answers = (first[-1]["content"], second[-1]["content"])
    if answers[0] == answers[1]:
        return "battles whose two answers are the same"
    said = []
    if winner is not None:
        judge = fields.get("judge") or fields.get("judge_hash") or NOBODY
        name = " ".join(map(str, judge)) if isinstance(judge, list) else str(judge)
        at = time_of(fields.get("tstamp", fields.get("timestamp")), place, "tstamp")
        said.append(Said(name, winner, shown=(0, 1), at=at))
    models = (fields.get("model_a"), fields.get("model_b"))
    row_id = fields.get("question_id", fields.get("id"))
    item = Item(
        mode_of([one.verdict for one in said], answers, mode),
        first[:-1],
        answers,
        row_id=None if row_id is None else str(row_id),
        models=None if None in models else (str(models[0]), str(models[1])),
        columns={name: fields[name] for name in KEPT if fields.get(name) is not None},
    )
    return Entry(item, said, place=place)


def write_battles(judgements: Sequence[Judgement], machines: Mapping[str, str]) -> Written:
    """Battles of the pairs that were judged; `a` is the response that was seen first.

    What does not fit is counted: more than two responses, ratings, rewrites, skips, how much better, remarks.
    """
    out = Written([])
    for one in judgements:
        item, verdict = one.task.item, one.verdict
        if verdict is None or verdict.ranking is None or len(item.distinct) != 2:
            out.count(_unfit(verdict, item))
            continue
        a, b = one.task.shown
        ranks = verdict.ranks() or []
        winner = "tie (bothbad)" if verdict.both_bad else "tie"
        if ranks[a] != ranks[b]:
            winner = "model_a" if ranks[a] < ranks[b] else "model_b"
        shown_once = len(item.responses) - len(item.distinct)
        out.count("responses that are identical to one of the two", shown_once)
        out.count(TURNS, several_turns(item))
        out.count("slight preferences, written as preferences", verdict.strength == "slightly")
        out.count("comments and flags", bool(one.comment) + bool(one.flag))
        out.count("times that a judgement took", one.seconds is not None)
        out.count("prompts that are text, written as one turn of the user", isinstance(item.prompt, str))
        out.count("judgements of programs, not marked as such", one.annotator in machines)
        turns = messages_of(item.prompt)
        models = item.models or ("unknown",) * len(item.responses)
        row = {
            "question_id": item.row_id or f"item-{item.number}",
            "model_a": models[a],
            "model_b": models[b],
            "winner": winner,
            "judge": one.annotator,
            "conversation_a": [*turns, {"role": "assistant", "content": item.responses[a]}],
            "conversation_b": [*turns, {"role": "assistant", "content": item.responses[b]}],
            "turn": max(1, sum(turn.get("role") == "user" for turn in turns)),
        }
        if one.at:
            row["tstamp"] = datetime.fromisoformat(one.at).timestamp()
        out.rows.append(row)
    return out


def _unfit(verdict: Verdict | None, item: Item) -> str:
    if verdict is None or verdict.skip is not None:
        return "skips"
    if verdict.ratings is not None:
        return "ratings"
    return "rewrites" if verdict.rewrite is not None else "rankings of more than two responses"


def _winner(fields: Mapping[str, Any], place: str) -> Verdict | None:
    if "winner" not in fields and "winner_model_a" in fields:
        marks = [
            str(fields.get(f"winner_{name}")) in ("1", "1.0", "True")
            for name in ("model_a", "model_b", "tie")
        ]
        if sum(marks) != 1:
            raise ExchangeError(
                place,
                "one of `winner_model_a`, `winner_model_b`, `winner_tie` to be 1",
                f"{sum(marks)} of them",
            )
        return WINNERS[("model_a", "model_b", "tie")[marks.index(True)]]
    winner = fields.get("winner")
    if winner in (None, ""):
        return None
    if not isinstance(winner, str) or winner.strip().lower() not in WINNERS:
        raise ExchangeError(
            place, "`winner` to be one of model_a, model_b, tie, tie (bothbad)", short(winner)
        )
    return WINNERS[winner.strip().lower()]


def _conversation(fields: Mapping[str, Any], side: str, place: str) -> list[dict[str, Any]]:
    """The turns up to the judged answer of one side."""
    name = f"conversation_{side}"
    if name in fields:
        turns = _judged_turns(_turns(decoded(fields[name]), name, place), fields.get("turn"))
        turns = [*_rounds_before(fields, side, turns, place), *turns]
    else:
        prompts, answers = decoded(fields.get("prompt")), decoded(fields.get(f"response_{side}"))
        prompts = [prompts] if isinstance(prompts, str) else prompts
        answers = [answers] if isinstance(answers, str) else answers
        if not isinstance(prompts, list) or not isinstance(answers, list) or len(prompts) != len(answers):
            raise ExchangeError(
                place, f"`{name}`, or `prompt` and `response_{side}` with a text a turn each", short(answers)
            )
        said = [
            {"role": role, "content": text}
            for pair in zip(prompts, answers, strict=True)
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        turns = _turns(said, f"response_{side}", place)
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        roles = [turn["role"] for turn in turns]
        raise ExchangeError(place, f"`{name}` to end with an answer of the assistant", f"roles {roles}")
    return turns


def _judged_turns(turns: list[dict[str, Any]], exchanges: Any) -> list[dict[str, Any]]:
    """The first so many exchanges: MT-bench has a judgement of each turn beside the whole conversation."""
    asked = [index for index, turn in enumerate(turns) if turn["role"] == "user"]
    return turns[: asked[exchanges]] if type(exchanges) is int and 0 < exchanges < len(asked) else turns


def _rounds_before(
    fields: Mapping[str, Any], side: str, turns: list[dict[str, Any]], place: str
) -> list[dict[str, Any]]:
    """The turns of earlier rounds, which later releases keep apart from the conversation that was judged."""
    rounds = decoded(fields.get("full_conversation"))
    if not isinstance(rounds, list) or fields.get("evaluation_order") == 1:
        return []
    whole = [
        message
        for one in rounds
        if isinstance(one, Mapping)
        for message in (one.get("user"), one.get(f"model_side_{side}"))
        if message is not None
    ]
    read = _turns(whole, "full_conversation", place)
    if read[-len(turns) :] != turns:
        raise _Unreadable("battles whose `full_conversation` does not end with what was judged")
    return read[: -len(turns)]


def _turns(value: Any, name: str, place: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise ExchangeError(place, f"`{name}` to be a list of turns", short(value))
    turns = []
    for turn in value:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("role"), str):
            raise ExchangeError(place, f"`{name}` to hold turns of role and content", short(turn))
        text = content_text(turn.get("content"))
        if text is None:
            raise _Unreadable("battles with pictures or files in them")
        turns.append({"role": turn["role"], "content": text})
    return turns


class _Unreadable(Exception):
    """Why a battle is left out, in words that are the same for all."""
