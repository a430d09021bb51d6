"""Votes rows, and the comparisons that are made of votes."""

from __future__ import annotations

from typing import Any

import pytest

from lit_rlhf.data.formats import RowError, parse_row
from lit_rlhf.data.judgements import without_ties
from lit_rlhf.data.reliability import Annotator, Reliability
from lit_rlhf.data.votes import compare_votes
from lit_rlhf.records import Comparison, Vote


def ballot(choices: str) -> list[Vote]:
    """Votes of annotators 0, 1, ...: `a` and `b` for the responses, `t` for a tie."""
    return [Vote(str(k), {"a": 1.0, "b": 0.0, "t": 0.5}[choice]) for k, choice in enumerate(choices)]


def fields(labels: Any, **more: Any) -> dict[str, Any]:
    return {"prompt": "p", "response_a": "x", "response_b": "y", "labels": labels, **more}


@pytest.mark.parametrize("kind", ["pairs", "candidates"])
def test_a_votes_row(kind: Any) -> None:
    labels = [
        {"labeler": "ann", "choice": "b"},
        {"labeler": 7, "choice": "b", "seconds": 3},
        {"choice": "tie"},
        {"choice": "a"},
    ]
    row = parse_row(fields(labels, gold="b", weight=2), kind, "f:1")
    assert (row.prompt, row.responses) == ("p", ["x", "y"])
    assert row.votes == [Vote("ann", 0.0), Vote("7", 0.0), Vote("", 0.5), Vote("", 1.0)]
    assert row.comparisons == [Comparison(better=1, worse=0, target=0.625, weight=2.0, tie=0.25)]
    assert row.columns["gold"] == "b"


def test_a_votes_row_of_conversations() -> None:
    prompt = [{"role": "user", "content": "p"}]
    answers = [{"role": "assistant", "content": text} for text in "xy"]
    row = parse_row(
        {
            "prompt": prompt,
            "response_a": [*prompt, answers[0]],
            "response_b": [answers[1]],
            "labels": [{"choice": "a"}],
        },
        "pairs",
        "f:1",
    )
    assert (row.prompt, row.responses) == (prompt, [[answers[0]], [answers[1]]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "`response_a`, `response_b` and `labels`, found no `labels`"),
        ({"response_b": None}, "found no `response_b`"),
        ({"labels": []}, "`labels` to be a list of {labeler, choice}, one or more, found []"),
        ({"labels": "a"}, "one or more, found 'a'"),
        (
            {"labels": [{"labeler": "w"}]},
            "`labels[0]` to have a `choice` of a, b or tie, found {'labeler': 'w'}",
        ),
        (
            {"labels": [{"choice": "a"}, {"choice": "both"}]},
            "`labels[1]` to have a `choice` of a, b or tie, found 'both'",
        ),
        ({"labels": ["a"]}, "`labels[0]` to have a `choice` of a, b or tie, found 'a'"),
        ({"labels": [{"choice": "a", "labeler": ["w"]}]}, "`labeler` to be text, found ['w']"),
        (
            {"labels": [{"labeler": "w", "choice": "a"}] * 2},
            "one vote of each labeler in `labels`, found two of 'w'",
        ),
        ({"response_b": "x"}, "two different responses, found `response_a` and `response_b` both 'x'"),
        ({"margin": 1}, "no `margin` beside `labels`, found 1"),
        ({"tie": True}, "no `tie` beside `labels`, found True"),
        ({"target": 0.7}, "no `target` beside `labels`"),
        ({"weight": -1}, "`weight` of 0 or more"),
    ],
)
def test_bad_votes_rows(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError) as caught:
        parse_row({**fields([{"labeler": "w", "choice": "a"}]), **changes}, "pairs", "f:3")
    assert str(caught.value).startswith("f:3: expected ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("choices", "prior", "expected"),
    [
        ("aaaab", 0.0, Comparison(0, 1, 0.8)),
        ("abbbb", 0.0, Comparison(1, 0, 0.8)),
        ("abtt", 0.0, Comparison(0, 1, 0.5, tie=0.5)),
        ("ab", 0.0, Comparison(0, 1, 0.5)),
        ("tt", 0.0, Comparison(0, 1, 0.5, tie=1.0)),
        ("aaa", 1.0, Comparison(0, 1, 0.8)),
        ("t", 0.5, Comparison(0, 1, 0.5, tie=0.5)),
    ],
)
def test_share_of_votes(choices: str, prior: float, expected: Comparison) -> None:
    assert compare_votes(ballot(choices), "share", prior) == [expected]


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ("aab", Comparison(0, 1)),
        ("abb", Comparison(1, 0)),
        ("attb", Comparison(0, 1, 0.5, tie=1.0)),
        ("aattb", Comparison(0, 1, 0.5, tie=1.0)),
        ("aabb", Comparison(0, 1, 0.5, tie=1.0)),
    ],
)
def test_majority(choices: str, expected: Comparison) -> None:
    assert compare_votes(ballot(choices), "majority") == [expected]


def test_each_vote_is_a_comparison() -> None:
    assert compare_votes(ballot("abt"), "each", weight=2.0) == [
        Comparison(0, 1, weight=2.0),
        Comparison(1, 0, weight=2.0),
        Comparison(0, 1, 0.5, weight=2.0, tie=1.0),
    ]


RELIABILITY = Reliability(
    annotators={"0": Annotator(0.9, 0.2), "1": Annotator(0.3, 0.2)},
    everybody=Annotator(0.6, 0.2),
    tie_rate=0.2,
    iterations=1,
    converged=True,
    scale=0.6,
)
"""Counts of a vote: annotator 0: 1.5, annotator 1: 0.5, anybody else: 1."""


def test_reliable_annotators_count_more_and_rows_of_unreliable_ones_less() -> None:
    (share,) = compare_votes(ballot("ab"), reliability=RELIABILITY)
    assert (share.better, share.target, share.weight) == (0, pytest.approx(0.75), pytest.approx(1.0))
    (share,) = compare_votes(ballot("bat"), reliability=RELIABILITY)  # 1.5, 0.5 and 1
    assert (share.better, share.target, share.tie) == (1, pytest.approx(2 / 3), pytest.approx(1 / 3))
    (alone,) = compare_votes([Vote("1", 1.0)], reliability=RELIABILITY, weight=4.0)
    assert (alone.target, alone.weight) == (1.0, pytest.approx(2.0))
    (most,) = compare_votes([*ballot("ab"), Vote("1", 0.0)], "majority", reliability=RELIABILITY)
    assert (most.better, most.target, most.weight) == (0, 1.0, pytest.approx(2.5 / 3))
    each = compare_votes(ballot("ab"), "each", reliability=RELIABILITY)
    assert [(c.better, c.weight) for c in each] == [(0, pytest.approx(1.5)), (1, pytest.approx(0.5))]


def test_posterior_by_hand() -> None:
    """Answers right with probability .9 + .1·g and .3 + .7·g; guesses are ties with probability .2."""
    sides = 0.4 * (0.9 + 0.1 * 0.4) * 0.7 * 0.4, 0.4 * 0.1 * 0.4 * (0.3 + 0.7 * 0.4)
    tie = 0.2 * 0.1 * 0.4 * 0.7 * 0.4
    whole = sum(sides) + tie
    (said,) = compare_votes(ballot("ab"), "posterior", reliability=RELIABILITY, weight=3.0)
    assert (said.better, said.worse, said.weight) == (0, 1, 3.0)
    assert said.target == pytest.approx((sides[0] + tie / 2) / whole)
    assert said.tie == pytest.approx(tie / whole)


def test_without_ties() -> None:
    said = [
        Comparison(0, 1, 0.5, tie=1.0),
        Comparison(1, 0, 0.7, margin=1.0, weight=2.0, tie=0.4),
        Comparison(0, 2, 0.9),
    ]
    partly, strict = without_ties(said)
    assert (partly.better, partly.worse, partly.margin, partly.tie) == (1, 0, 1.0, 0.0)
    assert (partly.target, partly.weight) == (pytest.approx(0.5 / 0.6), pytest.approx(1.2))
    assert strict is said[2]
