"""HelpSteer's and UltraFeedback's rows as their cards print them; the other layouts are in test_formats."""

from __future__ import annotations

from typing import Any

import pytest

from lit_rlhf.data.formats import RowError, parse_row
from lit_rlhf.records import Comparison

RATINGS = {"helpfulness": 3, "correctness": 4, "coherence": 4, "complexity": 2, "verbosity": 1}
TURNS = [
    {"role": "user", "content": "one\n\ntwo"},
    {"role": "assistant", "content": "three"},
    {"role": "user", "content": "four\n"},
]
CONVERSATION = "one\n\ntwo\n<extra_id_1>Assistant\nthree\n<extra_id_1>User\nfour\n"


@pytest.mark.parametrize(
    ("prompt", "turns"), [("c#\n", [{"role": "user", "content": "c#\n"}]), (CONVERSATION, TURNS)]
)
def test_helpsteer_response(prompt: str, turns: list[dict[str, str]]) -> None:
    row = parse_row({"prompt": prompt, "response": "text", **RATINGS}, "rankings", "f:1")
    assert (row.prompt, row.responses, row.ratings) == (turns, ["text"], [3.0])
    row = parse_row({"prompt": prompt, "response": "text", **RATINGS}, "demonstrations", "f:1")
    assert (row.prompt, row.responses) == (turns, ["text"])


def test_helpsteer_disagreements_are_averaged() -> None:
    row = parse_row(
        {"prompt": "p", "response": "r", **RATINGS, "helpfulness": [1, 2, 4, 3]}, "rankings", "f:1"
    )
    assert row.ratings == [2.5]


@pytest.mark.parametrize(
    ("strength", "responses", "comparison"),
    [
        (-3, ["first", "second"], Comparison(0, 1, margin=3.0)),
        (1, ["second", "first"], Comparison(0, 1, margin=1.0)),
        (0, ["first", "second"], Comparison(0, 1, 0.5, tie=1.0)),
    ],
)
def test_helpsteer_preferences(strength: int, responses: list[str], comparison: Comparison) -> None:
    second = {
        **{"split": "train", "prompt": CONVERSATION, "response_1": "first", "response_2": "second"},
        **{
            "preference_strength": strength,
            "preference_statement": "s",
            "three_most_similar_preferences": [],
        },
    }
    third = {
        **{"domain": "stem", "language": "english", "context": TURNS},
        **{"response1": "first", "response2": "second", "overall_preference": strength},
        "individual_preference": [{"score": strength, "reasoning": "r"}],
    }
    for fields, domain in ((second, None), (third, "stem")):
        row = parse_row(fields, "pairs", "f:1")
        assert (row.prompt, row.responses, row.comparisons) == (TURNS, responses, [comparison])
        assert row.domain == domain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preference_strength": -100}, "`preference_strength` -100, which is none of -3 to 3"),
        ({"preference_strength": "1"}, "`preference_strength` '1', which is none of -3 to 3"),
        ({"prompt": "a\n<extra_id_1>System\nb"}, "<extra_id_1>'System', which is none of Assistant and User"),
    ],
)
def test_bad_helpsteer_rows(changes: dict[str, Any], message: str) -> None:
    fields = {"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": 1, **changes}
    with pytest.raises(RowError) as caught:
        parse_row(fields, "pairs", "f:3")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "p", "messages": [], "score_chosen": 8.5, "score_rejected": 7.0},
        {"prompt": "p", "chosen-rating": 8.5, "rejected-rating": 7.0, "chosen-model": "m"},
        {"instruction": "p", "chosen_avg_rating": "8.5", "rejected_avg_rating": 7},
    ],
)
def test_binarized_ultrafeedback(fields: dict[str, Any]) -> None:
    user, answer = {"role": "user", "content": "p"}, {"role": "assistant"}
    sides = {name: [user, {**answer, "content": name}] for name in ("chosen", "rejected")}
    row = parse_row({**fields, **sides}, "pairs", "f:1")
    assert row.prompt == [user]
    assert row.responses == [[sides["chosen"][1]], [sides["rejected"][1]]]
    assert (row.ratings, row.comparisons) == ([8.5, 7.0], [Comparison(0, 1)])


def test_binarized_ultrafeedback_in_text_and_without_ratings() -> None:
    fields = {"instruction": "p", "chosen_response": "c", "rejected_response": "r"}
    row = parse_row(fields, "pairs", "f:1")
    assert (row.prompt, row.responses, row.ratings) == ("p", ["c", "r"], None)


def test_ultrafeedback_completion_without_any_rating_is_not_judged() -> None:
    completions = [
        {"response": "a", "annotations": {"helpfulness": {"Rating": "4", "Rationale": "..."}}},
        {"response": "b", "annotations": {"helpfulness": {"Rating": "N/A"}}},
        {"response": "c", "annotations": {"helpfulness": {"Rating": "2"}}},
    ]
    row = parse_row({"source": "flan", "instruction": "p", "completions": completions}, "rankings", "f:1")
    assert (row.ranks, row.ratings, row.comparisons) == ([1, None, 2], [4, None, 2], [Comparison(0, 2)])


def test_nectar_as_it_is() -> None:
    answers = [
        {"answer": text, "model": "m", "rank": float(rank)} for text, rank in (("a", 3), ("b", 1), ("c", 2))
    ]
    fields = {"prompt": "\n\nHuman: p\n\nAssistant: ", "answers": answers, "turns": 1, "good_natured": True}
    row = parse_row({**fields, "num_responses": 3, "source": ["x"]}, "rankings", "f:1")
    assert (row.prompt, row.responses) == ("\n\nHuman: p\n\nAssistant: ", ["a", "b", "c"])
    assert {(c.better, c.worse) for c in row.comparisons} == {(1, 2), (1, 0), (2, 0)}
    assert row.ratings is None
