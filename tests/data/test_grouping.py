"""Judgements spread over several rows: annotators of one pair, responses of one prompt."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from lit_rlhf.data.files import RowSet, read_rows
from lit_rlhf.data.grouping import group_ratings, merge_annotated_pairs
from lit_rlhf.metrics.agreement import count_votes, krippendorff_alpha
from lit_rlhf.records import Comparison, Vote


def pair(chosen: str, rejected: str, annotator: str | None, prompt: str = "p", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "annotator": annotator, **more}


def merged(*rows: dict[str, Any]) -> RowSet:
    return merge_annotated_pairs(read_rows(list(rows), "pairs"))


def test_annotators_of_the_same_two_responses_become_one_row_of_votes() -> None:
    read = merged(
        pair("x", "y", "ann", id="first"),
        pair("u", "v", None),
        pair("y", "x", "bob"),
        pair("y", "x", "cem", tie=True),
        pair("x", "y", "dan"),
        pair("y", "x", "eve"),
        pair("x", "y", "ann", prompt="q"),
    )
    one, plain, alone = read.rows
    assert (one.responses, one.id, one.place, one.annotator) == (["x", "y"], "first", "rows:1", None)
    assert one.votes == [
        Vote("ann", 1.0),
        Vote("bob", 0.0),
        Vote("cem", 0.5),
        Vote("dan", 1.0),
        Vote("eve", 0.0),
    ]
    assert one.comparisons == [Comparison(0, 1, 0.5, tie=0.2)]
    assert (plain.votes, plain.comparisons) == ([], [Comparison(0, 1)])
    assert (alone.votes, alone.annotator, alone.comparisons) == (
        [Vote("ann", 1.0)],
        "ann",
        [Comparison(0, 1)],
    )
    assert read.notes == ["5 rows were votes on 1 pairs, one row each now"]
    assert (read.weights, read.duplicates) == ([1.0] * 3, 0)


@pytest.mark.parametrize(
    "said", [{"margin": 1}, {"weight": 2}, {"target": 0.8}, {"domain": "other"}, {"annotator": None}]
)
def test_a_row_that_says_more_than_a_vote_stays_as_it_is(said: dict[str, Any]) -> None:
    read = merged(pair("x", "y", "ann"), {**pair("y", "x", "bob"), **said})
    assert [len(row.comparisons) for row in read.rows] == [1, 1]
    assert read.rows[0].votes == [Vote("ann", 1.0)]
    assert read.notes == []


def test_tie_of_its_own_is_a_vote_and_an_undecided_target_is_none() -> None:
    assert [row.votes for row in merged(pair("x", "y", "ann", tie=True)).rows] == [[Vote("ann", 0.5)]]
    assert [row.votes for row in merged(pair("x", "y", "ann", target=0.5)).rows] == [[]]


def test_the_last_word_of_an_annotator_counts_and_is_said() -> None:
    read = merged(pair("x", "y", "ann"), pair("x", "y", "bob"), pair("y", "x", "ann"))
    (row,) = read.rows
    assert sorted(row.votes, key=lambda vote: vote.annotator) == [Vote("ann", 0.0), Vote("bob", 1.0)]
    assert read.notes == [
        "3 rows were votes on 1 pairs, one row each now",
        "1 of them said again what their annotator had judged; the last word counts (first: rows:3)",
    ]


def test_sides_of_merged_pairs_do_not_depend_on_the_votes() -> None:
    """Annotators at random: with the first one's choice first, α would be near -1/3 of what pooled answers expect."""
    generator, rows = random.Random(0), []
    for k in range(400):
        for name in ("ann", "bob", "cem"):
            sides = [f"one of {k}", f"other of {k}"]
            generator.shuffle(sides)
            rows.append(pair(*sides, name, prompt=f"p{k}"))
    read = merged(*rows)
    firsts = [row.votes[0].choice for row in read.rows]
    assert 160 < sum(firsts) < 240
    assert 160 < sum(row.responses[0].startswith("one") for row in read.rows) < 240
    alpha = krippendorff_alpha(count_votes([row.votes for row in read.rows]))
    assert alpha == pytest.approx(0, abs=0.07)


@pytest.mark.parametrize("texts", [("x", "y"), ("a", "b"), ("u", "v"), ("c", "d")])
def test_sides_and_their_ratings_are_the_same_whoever_comes_first(texts: tuple[str, str]) -> None:
    rating = dict(zip(texts, (8, 3), strict=True))
    both = [texts, texts[::-1]]
    ballots = [
        pair(*sides, name, score_chosen=rating[sides[0]], score_rejected=rating[sides[1]])
        for sides, name in zip(both, ("ann", "bob"), strict=True)
    ]
    (one,), (other,) = merged(*ballots).rows, merged(*ballots[::-1]).rows
    assert one.responses == other.responses
    for row in (one, other):
        assert row.ratings == [rating[str(response)] for response in row.responses]
        assert {vote.annotator: row.responses[0 if vote.choice == 1 else 1] for vote in row.votes} == {
            "ann": texts[0],
            "bob": texts[1],
        }


def test_votes_without_a_name_are_nobodys_and_all_count(tmp_path: Path) -> None:
    file = tmp_path / "votes.csv"
    file.write_text("prompt,chosen,rejected,annotator\np,x,y,\np,x,y,\np,y,x,\np,x,y,ann\nq,x,y,\n")
    read = merge_annotated_pairs(read_rows(str(file), "pairs"))
    voted, alone = read.rows
    assert [vote.annotator for vote in voted.votes] == ["", "", "", "ann"]
    first = voted.responses.index("x")
    assert [vote.choice == 1 - first for vote in voted.votes] == [True, True, False, True]
    assert (alone.annotator, alone.votes) == (None, [Vote("", 1.0)])
    assert read.notes == ["4 rows were votes on 1 pairs, one row each now"]


def test_files_of_different_weights_are_not_merged(tmp_path: Any) -> None:
    import json

    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(pair("x", "y", name)))
    path = [{"path": str(tmp_path / "a.jsonl")}, {"path": str(tmp_path / "b.jsonl"), "weight": 3}]
    read = merge_annotated_pairs(read_rows(path, "pairs"))
    assert ([len(row.votes) for row in read.rows], read.weights) == ([1, 1], [1.0, 3.0])


def rated(prompt: str, response: str, helpfulness: int, **more: Any) -> dict[str, Any]:
    """A row of HelpSteer."""
    others = {"correctness": 4, "coherence": 3, "complexity": 2, "verbosity": 1}
    return {"prompt": prompt, "response": response, "helpfulness": helpfulness, **others, **more}


def test_rated_responses_of_a_prompt_become_a_ranking() -> None:
    rows = [
        rated("p", "a", 1, correctness=0),
        rated("q", "b", 2),
        rated("p", "c", 4),
        rated("p", "d", 1),
        rated("r", "e", 3),
        rated("q", "f", 2),
    ]
    read = group_ratings(read_rows(rows, "rankings"))
    first, second, alone = read.rows
    assert first.prompt == [{"role": "user", "content": "p"}]
    assert (first.responses, first.ratings, first.ranks) == (["a", "c", "d"], [1, 4, 1], [2, 1, 2])
    assert {(c.better, c.worse, c.tie) for c in first.comparisons} == {(1, 0, 0), (1, 2, 0), (0, 2, 1)}
    assert (first.columns["correctness"], first.place) == ([0, 4, 4], "rows:1")
    assert (second.responses, second.ratings) == (["b", "f"], [2, 2])
    assert (alone.responses, alone.ratings, alone.comparisons) == (["e"], [3], [])
    assert read.notes == [
        "6 rows of one rated response became 2 rankings and 1 rows whose prompt has no other response"
    ]


def test_ratings_of_different_annotators_and_whole_rankings_stay_apart() -> None:
    rows = [
        {"prompt": "p", "responses": ["a"], "scores": [1], "annotator": "ann"},
        {"prompt": "p", "responses": ["b"], "scores": [2], "annotator": "bob"},
        {"prompt": "p", "responses": ["c", "d"], "scores": [2, 1], "annotator": "ann"},
    ]
    read = group_ratings(read_rows(rows, "rankings"))
    assert [row.responses for row in read.rows] == [["a"], ["b"], ["c", "d"]]
