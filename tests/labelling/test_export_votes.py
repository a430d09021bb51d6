"""Several judgements of an item as one: majorities, circles, agreement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lit_rlhf.data.files import read_rows
from lit_rlhf.labelling.export import Exported, ExportSettings, export_judgements
from lit_rlhf.labelling.export_files import rows_as_bytes, write_whole
from lit_rlhf.labelling.items import Item
from lit_rlhf.labelling.verdicts import Verdict
from tests.labelling.export_cases import BOTH_BAD, FIRST, PAIR, SECOND, TIE, TRIPLE, judged, order


def export(item: Item, verdicts: list[Verdict], **settings: Any) -> Exported:
    names = ["ann", "bea", "cem", "dev", "eli"]
    given = [
        judged(number, item, names[number - 1], verdict) for number, verdict in enumerate(verdicts, start=1)
    ]
    return export_judgements(given, ExportSettings(**settings))


@pytest.mark.parametrize(
    ("verdicts", "chosen", "tie", "strength", "agreed"),
    [
        ([FIRST, FIRST, SECOND], "x", None, "better", 2),
        ([SECOND, SECOND, FIRST, TIE], "y", None, "slightly", 2),
        ([FIRST, SECOND], "x", True, None, 0),
        ([TIE, BOTH_BAD, FIRST], "x", True, None, 2),
        ([FIRST, Verdict(((0,), (1,)), "slightly")], "x", None, "better", 2),
    ],
)
def test_the_majority_of_a_pair(
    verdicts: list[Verdict], chosen: str, tie: bool | None, strength: str | None, agreed: int
) -> None:
    (row,) = export(PAIR, verdicts, votes="majority").rows
    assert (row["chosen"], row.get("tie"), row.get("strength"), row["agreed"]) == (
        chosen,
        tie,
        strength,
        agreed,
    )
    assert "annotator" not in row
    assert row["annotators"] == ["ann", "bea", "cem", "dev"][: len(verdicts)]


def test_both_bad_where_most_of_the_ties_say_so() -> None:
    assert export(PAIR, [BOTH_BAD, BOTH_BAD, TIE], votes="majority").rows[0]["both_bad"] is True
    assert "both_bad" not in export(PAIR, [BOTH_BAD, TIE], votes="majority").rows[0]
    assert "both_bad" not in export(PAIR, [BOTH_BAD, FIRST, FIRST], votes="majority").rows[0]
    triple = export(TRIPLE, [Verdict(((0, 1, 2),), both_bad=True)], votes="majority").rows[0]
    assert (triple["ranking"], triple["both_bad"]) == ([[0, 1, 2]], True)


def test_majorities_that_make_a_ranking_are_that_ranking() -> None:
    verdicts = [order(0, 1, 2), order(0, 2, 1), order(1, 0, 2)]
    exported = export(TRIPLE, verdicts, votes="majority")
    assert exported.rows[0]["ranking"] == [[0], [1], [2]]
    assert exported.left_out == {}
    assert export(TRIPLE, [order(0, 1, 2), order(0, 2, 1)], votes="majority").rows[0]["ranking"] == [
        [0],
        [1, 2],
    ]


def test_a_circle_is_a_tie_and_counted() -> None:
    circle = [order(0, 1, 2), order(1, 2, 0), order(2, 0, 1)]
    exported = export(TRIPLE, circle, votes="majority")
    assert exported.rows[0]["ranking"] == [[0, 1, 2]]
    assert exported.left_out == {
        "answers of a majority that go in a circle with others; those responses are tied": 1
    }
    four = Item("ranking", "p", ("a", "b", "c", "d"), number=1)
    below = [order(*(index for group in verdict.ranking or () for index in group), 3) for verdict in circle]
    assert export(four, below, votes="majority").rows[0]["ranking"] == [[0, 1, 2], [3]]


def test_a_circle_stays_in_pairs() -> None:
    circle = [order(0, 1, 2), order(1, 2, 0), order(2, 0, 1)]
    rows = export(TRIPLE, circle, votes="majority", rows="pairs").rows
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("a", "b"), ("c", "a"), ("b", "c")]


def test_identical_responses_stay_together() -> None:
    item = Item("ranking", "p", ("a", "b", "a", "c"), number=1)
    exported = export(item, [order(1, (0, 2), 3)], votes="majority")
    assert exported.rows[0]["ranking"] == [[1], [0, 2], [3]]


def test_ratings_become_medians(tmp_path: Path) -> None:
    item = Item("rating", "p", ("a", "b"), number=1)
    verdicts = [Verdict(ratings=(1, 4)), Verdict(ratings=(5, 5))]
    exported = export(item, verdicts, votes="majority")
    assert exported.rows[0]["scores"] == [3, 4.5]
    path = tmp_path / "rows.jsonl"
    write_whole(path, rows_as_bytes(path, exported.rows))
    assert read_rows(str(path), "rankings").rows[0].ratings == [3, 4.5]


def test_only_what_enough_annotators_agree_on() -> None:
    left_out = "pairs of which fewer than 2 annotators said the same, or as many something else"
    (row,) = export(PAIR, [FIRST, FIRST, SECOND], votes="min-agree").rows
    assert (row["chosen"], row["agreed"], row["strength"]) == ("x", 2, "better")
    for divided in ([FIRST, SECOND], [FIRST, FIRST, SECOND, SECOND], [FIRST]):
        exported = export(PAIR, divided, votes="min-agree")
        assert (exported.rows, exported.left_out, exported.judgements) == ([], {left_out: 1}, 0)
    assert len(export(PAIR, [FIRST], votes="min-agree", min_agree=1).rows) == 1
    (row,) = export(PAIR, [BOTH_BAD, BOTH_BAD, FIRST], votes="min-agree").rows
    assert (row["tie"], row["both_bad"]) == (True, True)


def test_agreement_on_a_part_is_a_ranking_of_that_part(tmp_path: Path) -> None:
    exported = export(TRIPLE, [order(0, 1, 2), order(0, 2, 1)], votes="min-agree")
    assert exported.rows[0]["ranking"] == [[0], [1]]
    assert exported.left_out == {
        "pairs of which fewer than 2 annotators said the same, or as many something else": 1,
        "agreed pairs that fit into no ranking with the others (--rows pairs has them)": 1,
    }
    path = tmp_path / "rows.jsonl"
    write_whole(path, rows_as_bytes(path, exported.rows))
    assert read_rows(str(path), "rankings").rows[0].ranks == [1, 2, None]
    pairs = export(TRIPLE, [order(0, 1, 2), order(0, 2, 1)], votes="min-agree", rows="pairs").rows
    assert [(row["chosen"], row["rejected"]) for row in pairs] == [("a", "b"), ("a", "c")]


def test_agreement_in_a_circle_is_a_ranking_of_two() -> None:
    circle = [order(0, 1, 2), order(1, 2, 0), order(2, 0, 1)]
    exported = export(TRIPLE, circle, votes="min-agree")
    assert exported.rows[0]["ranking"] == [[0], [1]]
    whole = export(TRIPLE, [order(1, (0, 2)), order(1, (0, 2))], votes="min-agree")
    assert whole.rows[0]["ranking"] == [[1], [0, 2]]


def test_a_ranking_of_two_keeps_how_much_better() -> None:
    for votes in ("majority", "min-agree"):
        (row,) = export(PAIR, [SECOND, SECOND], votes=votes, rows="rankings").rows
        assert (row["ranking"], row["strength"]) == ([[1], [0]], "slightly")
