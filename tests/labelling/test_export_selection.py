"""Which judgements are exported, in which order, and what is said of the others."""

from __future__ import annotations

from typing import Any

from lit_rlhf.labelling.export import Exported, ExportSettings, export_judgements
from lit_rlhf.labelling.items import Judgement
from lit_rlhf.labelling.verdicts import Verdict
from tests.labelling.export_cases import BOTH_BAD, FIRST, PAIR, SECOND, TIE, TRIPLE, judged, order


def export(judgements: list[Judgement], machines: Any = None, **settings: Any) -> Exported:
    return export_judgements(judgements, ExportSettings(**settings), machines)


def numbers(exported: Exported) -> list[int]:
    return [row["judgement"] for row in exported.rows]


def test_skips_tests_and_repeats_are_counted_and_not_exported() -> None:
    kinds = ["gold", "practice", "repeat", "swap", "live"]
    given = [
        judged(number, PAIR, f"a{number}", FIRST, kind=kind) for number, kind in enumerate(kinds, start=1)
    ]
    given += [judged(6, PAIR, "ann", Verdict(skip="no")), judged(7, PAIR, "bea", None)]
    exported = export(given)
    assert numbers(exported) == [5]
    assert exported.left_out == {
        "tests (gold)": 1,
        "exercises (practice)": 1,
        "repeats, asked for self-consistency": 1,
        "repeats in the reverse order": 1,
        "skipped": 1,
        "judgements taken back": 1,
    }
    assert exported.next == 7
    assert exported.describe()[0] == "1 row of pairs, from 1 judgement"
    assert "left out: 1 skipped" in exported.describe()


def test_rows_stand_in_the_order_of_their_numbers() -> None:
    given = [judged(number, PAIR, f"a{number}", FIRST) for number in (3, 1, 2)]
    assert numbers(export(given)) == [1, 2, 3]
    items = [judged(4, PAIR, "ann", FIRST), judged(2, TRIPLE, "ann", order(0, 1, 2))]
    assert [row["item"] for row in export(items, votes="majority").rows] == [1, 2]


def test_since_gives_what_is_new_and_where_to_go_on() -> None:
    given = [
        judged(1, PAIR, "ann", FIRST),
        judged(4, PAIR, "bea", FIRST),
        judged(6, TRIPLE, "ann", order(0, 1, 2)),
    ]
    given.append(judged(2, PAIR, "cem", Verdict(skip="no")))
    exported = export(given, since=1)
    assert (numbers(exported), exported.next) == ([4, 6], 6)
    exported = export(given, since=4)
    assert (numbers(exported), exported.left_out) == ([6], {})
    exported = export(given, since=9)
    assert (exported.rows, exported.next) == ([], 9)


def test_since_gives_whole_items_where_a_row_is_an_item() -> None:
    given = [
        judged(1, PAIR, "ann", FIRST),
        judged(2, TRIPLE, "ann", order(0, 1, 2)),
        judged(3, PAIR, "bea", FIRST),
    ]
    (row,) = export(given, votes="majority", rows="pairs", since=2).rows
    assert row["annotators"] == ["ann", "bea"]
    (row,) = export(given, rows="votes", since=2).rows
    assert [one["labeler"] for one in row["labels"]] == ["ann", "bea"]


def test_an_annotator_has_one_vote_on_an_item() -> None:
    given = [judged(1, PAIR, "ann", FIRST, kind="live"), judged(2, PAIR, "ann", SECOND)]
    exported = export(given)
    assert numbers(exported) == [2]
    assert exported.left_out == {"judgements that their annotator gave again elsewhere; the latest counts": 1}


def test_flags_are_in_every_row_of_their_item_or_drop_it() -> None:
    given = [
        judged(1, PAIR, "ann", FIRST),
        judged(2, PAIR, "bea", Verdict(skip="no"), flag="broken"),
        judged(3, PAIR, "cem", SECOND, flag="rude"),
        judged(4, TRIPLE, "ann", order(0, 1, 2)),
    ]
    exported = export(given, rows="rankings")
    assert [row.get("flag") for row in exported.rows] == ["broken; rude", "broken; rude", None]
    assert exported.notes == ["flagged: 1 item; `flag` says why, --without-flagged drops them"]
    exported = export(given, rows="rankings", without_flagged=True)
    assert numbers(exported) == [4]
    assert exported.left_out == {"skipped": 1, "judgements of flagged items (--without-flagged)": 2}
    assert exported.notes == []


def test_programs_are_marked_or_left_out() -> None:
    given = [judged(1, PAIR, "ann", FIRST), judged(2, PAIR, "rm", SECOND)]
    exported = export(given, {"rm": "reward model"})
    assert [row.get("machine") for row in exported.rows] == [None, "reward model"]
    assert exported.notes == ["by programs: 1 judgement, marked `machine`; --people-only leaves them out"]
    exported = export(given, {"rm": "reward model"}, people_only=True)
    assert numbers(exported) == [1]
    assert exported.left_out == {"judgements of programs (--people-only)": 1}


def test_ties_are_dropped_where_asked_for() -> None:
    given = [
        judged(1, PAIR, "ann", FIRST),
        judged(2, PAIR, "bea", BOTH_BAD),
        judged(3, TRIPLE, "ann", order(2, (0, 1))),
        judged(4, TRIPLE, "bea", order((0, 1, 2))),
    ]
    exported = export(given, ties="drop", rows="rankings")
    assert (numbers(exported), exported.left_out) == ([1, 3], {"ties": 2})
    exported = export(given, ties="drop", rows="pairs")
    assert (numbers(exported), exported.left_out) == ([1, 3, 3], {"ties": 5})
    assert exported.judgements == 2
    votes = export(given, ties="drop", rows="votes")
    assert [[one["choice"] for one in row["labels"]] for row in votes.rows] == [["a"], ["b"], ["b"]]
    orders = "orders in which responses were seen, which votes have no place for (--rows pairs has them)"
    assert votes.left_out == {"ties": 5, orders: 4}


def test_a_rating_of_one_response_is_no_tie() -> None:
    alone = PAIR.__class__("rating", "p", ("a",), number=9)
    given = [judged(1, alone, "ann", Verdict(ratings=(3,))), judged(2, PAIR, "ann", TIE)]
    assert numbers(export(given, ties="drop", rows="rankings")) == [1]
    exported = export(given, rows="pairs")
    assert exported.left_out == {"ratings of a single response, which make no pair": 1}


def test_the_kind_of_rows_is_that_of_all_judgements() -> None:
    given = [judged(1, TRIPLE, "ann", order(0, 1, 2)), judged(2, PAIR, "ann", FIRST)]
    assert (export(given).kind, export(given, since=1).kind, export(given[1:]).kind) == (
        "rankings",
        "rankings",
        "pairs",
    )
