"""Judgements as rows, and the rows as the data modules read them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lit_rlhf.data.files import read_rows
from lit_rlhf.data.grouping import merge_annotated_pairs
from lit_rlhf.labelling.export import Exported, ExportError, ExportSettings, export_judgements
from lit_rlhf.labelling.export_files import rows_as_bytes, write_whole
from lit_rlhf.labelling.items import Item, Judgement
from lit_rlhf.labelling.verdicts import Verdict
from lit_rlhf.records import Comparison, Row, Vote
from tests.labelling.export_cases import BOTH_BAD, FIRST, PAIR, SECOND, TIE, TRIPLE, judged, order

TWO_VOTES = [judged(1, PAIR, "ann", FIRST), judged(2, PAIR, "bea", SECOND, shown=(1, 0))]


def export(judgements: list[Judgement], machines: Any = None, **settings: Any) -> Exported:
    return export_judgements(judgements, ExportSettings(**settings), machines)


def read(exported: Exported, kind: Any, tmp_path: Path, name: str = "rows.jsonl") -> list[Row]:
    """The rows of the file, through the reading of the data modules."""
    path = tmp_path / name
    write_whole(path, rows_as_bytes(path, exported.rows))
    return read_rows(str(path), kind).rows


def test_a_ranking_has_all_that_was_said_and_seen() -> None:
    item = Item(
        "ranking", "p", ("a", "b", "c"), "r", ("m1", "m2", "m3"), "d", columns={"topic": "t"}, number=7
    )
    one = judged(
        3, item, "ann", order(2, (0, 1)), shown=(1, 2, 0), seconds=4.5, at="2026-01-01", comment="c", flag="f"
    )
    (row,) = export([one], {"ann": "rule"}, rows="rankings").rows
    assert row == {
        "prompt": "p",
        "responses": ["a", "b", "c"],
        "ranking": [[2], [0, 1]],
        "annotator": "ann",
        "machine": "rule",
        "shown": [1, 2, 0],
        "seconds": 4.5,
        "at": "2026-01-01",
        "comment": "c",
        "judgement": 3,
        "id": "r",
        "domain": "d",
        "item": 7,
        "flag": "f",
        "models": ["m1", "m2", "m3"],
        "topic": "t",
    }


def test_rankings_and_ratings_are_read_as_they_were_said(tmp_path: Path) -> None:
    rated = Item("rating", "p3", ("a", "b"), number=3)
    alone = Item("rating", "p4", ("a",), number=4)
    exported = export(
        [
            judged(1, TRIPLE, "ann", order(1, (0, 2))),
            judged(2, rated, "ann", Verdict(ratings=(2, 5))),
            judged(3, alone, "bea", Verdict(ratings=(4,))),
            judged(4, PAIR, "ann", BOTH_BAD),
        ]
    )
    assert exported.kind == "rankings"
    rows = read(exported, "rankings", tmp_path)
    assert [row.ranks for row in rows] == [[2, 1, 2], [2, 1], [1], [1, 1]]
    assert [row.ratings for row in rows] == [None, [2, 5], [4], None]
    assert [row.annotator for row in rows] == ["ann", "ann", "bea", "ann"]
    assert rows[3].columns["both_bad"] is True


def test_pairs_are_votes_of_their_annotators(tmp_path: Path) -> None:
    exported = export([*TWO_VOTES, judged(3, PAIR, "cem", BOTH_BAD)])
    assert exported.kind == "pairs"
    assert [(row["chosen"], row["rejected"]) for row in exported.rows] == [("x", "y"), ("y", "x"), ("x", "y")]
    assert [row.get("strength") for row in exported.rows] == ["better", "slightly", None]
    assert exported.rows[1]["models"] == ["m-y", "m-x"]
    assert [row["shown"] for row in exported.rows] == [[0, 1], [0, 1], [0, 1]]
    path = tmp_path / "rows.jsonl"
    write_whole(path, rows_as_bytes(path, exported.rows))
    (row,) = merge_annotated_pairs(read_rows(str(path), "pairs")).rows
    first = row.responses.index("x")
    assert row.votes == [Vote("ann", 1.0 - first), Vote("bea", float(first)), Vote("cem", 0.5)]


def test_every_strict_pair_of_a_ranking_and_its_ties(tmp_path: Path) -> None:
    exported = export([judged(1, TRIPLE, "ann", order(2, (0, 1)), shown=(1, 2, 0))], rows="pairs")
    rows = read(exported, "pairs", tmp_path)
    assert [row.responses for row in rows] == [["c", "a"], ["c", "b"], ["a", "b"]]
    assert [row.comparisons[0].tie for row in rows] == [0, 0, 1]
    assert [row["shown"] for row in exported.rows] == [[0, 1], [1, 0], [1, 0]]
    assert not any("strength" in row for row in exported.rows)


def test_an_order_that_nobody_knows_is_not_written() -> None:
    for rows in ("rankings", "pairs"):
        assert "shown" not in export([judged(1, PAIR, "ann", FIRST, seen=False)], rows=rows).rows[0]


def test_identical_responses_make_no_pair() -> None:
    item = Item("ranking", "p", ("a", "b", "a", "c"), number=1)
    rows = export([judged(1, item, "ann", order((0, 2), 1, 3))], rows="pairs").rows
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("a", "b"), ("a", "c"), ("b", "c")]
    votes = export([judged(1, item, "ann", order((0, 2), 1, 3))], rows="votes").rows
    assert [(row["response_a"], row["response_b"]) for row in votes] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_margins_only_where_asked_for(tmp_path: Path) -> None:
    assert not any("margin" in row for row in export(TWO_VOTES).rows)
    rows = read(export([*TWO_VOTES, judged(3, PAIR, "cem", TIE)], margins=True), "pairs", tmp_path)
    assert [row.comparisons[0].margin for row in rows] == [pytest.approx(2 / 3), pytest.approx(1 / 3), 0]


def test_votes_have_every_annotator_in_one_row(tmp_path: Path) -> None:
    exported = export([*TWO_VOTES, judged(3, PAIR, "rule", BOTH_BAD)], {"rule": "a rule"}, rows="votes")
    (row,) = read(exported, "pairs", tmp_path)
    assert row.responses == ["x", "y"]
    assert row.votes == [Vote("ann", 1.0), Vote("bea", 0.0), Vote("rule", 0.5)]
    assert exported.rows[0]["labels"][2] == {
        "labeler": "rule",
        "choice": "tie",
        "both_bad": True,
        "machine": "a rule",
        "judgement": 3,
    }


def test_demonstrations_are_what_was_written_and_no_best_response(tmp_path: Path) -> None:
    item = Item("rewrite", "p", ("bad",), number=5)
    judgements = [
        judged(1, item, "ann", Verdict(rewrite="good", rewrite_of=0)),
        judged(2, PAIR, "ann", FIRST),
    ]
    exported = export(judgements, rows="demonstrations")
    (row,) = read(exported, "demonstrations", tmp_path)
    assert (row.prompt, row.responses, row.annotator) == ("p", ["good"], "ann")
    assert exported.rows[0]["rewrite_of"] == "bad"
    assert exported.left_out == {"rankings and ratings (--rows rankings has them)": 1}
    assert export(judgements[:1]).kind == "demonstrations"
    assert export(judgements).left_out == {"rewrites (--rows demonstrations has them)": 1}


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.csv"])
def test_other_suffixes_say_the_same(name: str, tmp_path: Path) -> None:
    item = Item("ranking", [{"role": "user", "content": "hé\n,"}], ('"a"', "b\nc", "d\re"), "1", number=1)
    exported = export([judged(1, item, "ann", order(1, (0, 2)))])
    (row,) = read(exported, "rankings", tmp_path, name)
    assert (row.prompt, row.responses, row.ranks) == (item.prompt, list(item.responses), [2, 1, 2])
    assert (row.annotator, row.id) == ("ann", "1")


def test_csv_of_pairs_reads_ties_and_margins(tmp_path: Path) -> None:
    exported = export([*TWO_VOTES, judged(3, PAIR, "cem", TIE)], margins=True)
    rows = read(exported, "pairs", tmp_path, "rows.csv")
    assert [row.comparisons for row in rows] == [
        [Comparison(0, 1, 1.0, 2 / 3)],
        [Comparison(0, 1, 1.0, 1 / 3)],
        [Comparison(0, 1, 0.5, tie=1.0)],
    ]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_numbers_that_are_none_are_null_and_counted(name: str, tmp_path: Path) -> None:
    item = Item(
        "pairwise", "p", ("x", "y"), columns={"loss": math.nan, "all": [1.5, {"a": -math.inf}]}, number=1
    )
    exported = export([judged(1, item, "ann", FIRST)])
    assert (exported.rows[0]["loss"], exported.rows[0]["all"]) == (None, [1.5, {"a": None}])
    assert exported.notes == ["2 numbers that are none (NaN, infinities) are written as null"]
    assert b"NaN" not in rows_as_bytes(tmp_path / name, exported.rows)
    with pytest.raises(ValueError, match="not JSON compliant"):
        rows_as_bytes(tmp_path / name, [{"loss": [math.nan]}])


def test_half_a_surrogate_pair_is_refused() -> None:
    item = Item("pairwise", "p", ("\ud800", "y"), number=7)
    with pytest.raises(
        ValueError, match=r"item 7: expected `chosen` to be text that UTF-8 can hold, found half"
    ):
        export([judged(1, item, "ann", FIRST)])


TURNS: tuple[Any, ...] = (
    [{"role": "assistant", "content": text} for text in ("a", "c")],
    "short",
)
TURNS[0].insert(1, {"role": "user", "content": "b"})
SEVERAL = Item("pairwise", "p", ("assistant: a\n\nuser: b\n\nassistant: c", "short"), turns=TURNS, number=1)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
@pytest.mark.parametrize(
    ("rows", "kind", "votes"),
    [
        *[("pairs", "pairs", "each"), ("votes", "pairs", "each"), ("rankings", "rankings", "each")],
        *[("pairs", "pairs", "majority"), ("rankings", "rankings", "majority")],
    ],
)
def test_several_turns_are_written_as_turns(
    rows: Any, kind: Any, votes: Any, name: str, tmp_path: Path
) -> None:
    (row,) = read(export([judged(1, SEVERAL, "ann", FIRST)], rows=rows, votes=votes), kind, tmp_path, name)
    assert row.responses == [TURNS[0], "short"]


def test_fields_of_each_response_go_with_their_responses(tmp_path: Path) -> None:
    columns = {"finished": [True, False, True], "reward_scores": [0.5], "tags": ["a", "b", "c"]}
    item = Item("ranking", "p", ("a", "b", "c"), columns=columns, number=1)
    given = [judged(1, item, "ann", order(2, 1, 0))]
    for settings in ({"rows": "pairs"}, {"rows": "pairs", "votes": "majority"}):
        found = {(row["chosen"], row["rejected"]): row["finished"] for row in export(given, **settings).rows}
        assert found == {("b", "a"): [False, True], ("c", "a"): [True, True], ("c", "b"): [True, False]}
    votes = export(given, rows="votes").rows
    assert [row["finished"] for row in votes] == [[True, False], [True, True], [False, True]]
    assert (votes[0]["tags"], votes[0]["reward_scores"]) == (["a", "b", "c"], [0.5])
    assert export(given, rows="rankings").rows[0]["finished"] == [True, False, True]


def test_votes_count_what_they_have_no_place_for() -> None:
    given = [
        judged(1, PAIR, "ann", FIRST, comment="c", seconds=2.0),
        judged(2, PAIR, "bea", FIRST, at="2026-01-01", seen=False),
        judged(3, Item("rating", "p", ("x",), number=3), "ann", Verdict(ratings=(1,)), comment="c"),
    ]
    rest = "which votes have no place for (--rows pairs has them)"
    assert export(given, rows="votes").left_out == {
        f"comments, {rest}": 1,
        f"times at which and that judgements took, {rest}": 2,
        f"orders in which responses were seen, {rest}": 1,
        "ratings of a single response, which make no pair": 1,
    }


def test_columns_come_along_where_they_clash_with_nothing(tmp_path: Path) -> None:
    columns = {"topic": "t", "ranks": [1, 2], "answers": [{"answer": "x", "rank": 2}], "annotator": "z"}
    item = Item("pairwise", "p", ("x", "y"), columns=columns, number=1)
    exported = export([judged(1, item, "ann", SECOND)], rows="rankings")
    assert exported.rows[0]["topic"] == "t"
    assert exported.rows[0]["annotator"] == "ann"
    assert read(exported, "rankings", tmp_path)[0].ranks == [2, 1]
    assert exported.notes == [
        "fields of the items' own rows not written, since they would be read as judgements: annotator, answers, ranks"
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"rows": "votes", "votes": "majority"},
            "--rows votes: expected --votes each beside it, found majority",
        ),
        ({"rows": "demonstrations", "votes": "min-agree"}, "--rows demonstrations: expected --votes each"),
        ({"rows": "rankings", "margins": True}, "--margins: expected --rows pairs and --votes each"),
        ({"votes": "majority", "margins": True}, "--margins: expected --rows pairs and --votes each"),
        ({"min_agree": 0}, "--min-agree: expected 1 or more, found 0"),
        ({"since": -1}, "--since: expected the number of a judgement, 0 or more, found -1"),
    ],
)
def test_settings_that_contradict_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        ExportSettings(**settings)


def test_margins_of_rankings_are_refused() -> None:
    with pytest.raises(ExportError, match="expected --rows pairs, found rankings"):
        export([judged(1, TRIPLE, "ann", order(0, 1, 2))], margins=True)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    write_whole(path, b"old\n")

    def fail(*_: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="full"):
        write_whole(path, b"new\n")
    assert path.read_bytes() == b"old\n"
    assert [file.name for file in path.parent.iterdir()] == ["rows.jsonl"]


def test_gzipped_rows_have_the_same_bytes_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("rows.jsonl.gz")
    first = rows_as_bytes(path, [{"a": 1}])
    monkeypatch.setattr("time.time", lambda: 1e9)
    assert rows_as_bytes(path, [{"a": 1}]) == first
    with pytest.raises(ValueError, match=r"expected a name that ends in .jsonl, .jsonl.gz, .csv, found .txt"):
        rows_as_bytes(Path("rows.txt"), [])


def test_rows_are_json_that_is_read_by_eye() -> None:
    assert json.loads(rows_as_bytes(Path("r.jsonl"), [{"a": "é"}])) == {"a": "é"}
    assert "é".encode() in rows_as_bytes(Path("r.jsonl"), [{"a": "é"}])
