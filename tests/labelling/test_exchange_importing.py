"""Files put into a store: nothing twice, nothing lost, nothing newer overwritten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lit_rlhf.labelling.exchange.entries import Entry, ExchangeError, Said
from lit_rlhf.labelling.exchange.imported import Imported
from lit_rlhf.labelling.exchange.importing import import_entries
from lit_rlhf.labelling.exchange.reading import read_file
from lit_rlhf.labelling.export import ExportSettings, export_judgements
from lit_rlhf.labelling.export_files import rows_as_bytes
from lit_rlhf.labelling.items import Item
from lit_rlhf.labelling.store import LabelStore
from lit_rlhf.labelling.verdicts import Verdict
from tests.labelling.export_cases import FIRST, SECOND, TIE, order

EARLY, LATE = "2026-01-01T00:00:00.000+00:00", "2099-01-01T00:00:00.000+00:00"
BETTER_SECOND = Verdict(((1,), (0,)), "better")


def pair(*said: Said, responses: tuple[str, ...] = ("x", "y"), **fields: Any) -> Entry:
    return Entry(Item("pairwise", fields.pop("prompt", "p"), responses, **fields), list(said))


def current(store: LabelStore) -> list[tuple[int, str, Verdict | None]]:
    return [(one.task.item.number, one.annotator, one.verdict) for one in store.judgements()]


def test_items_and_judgements_arrive_with_all_that_was_said(store: LabelStore) -> None:
    said = Said("ann", SECOND, (1, 0), "c", "f", 2.5, EARLY)
    done = import_entries(store, [pair(said, row_id="r", models=("m", "n"))])
    (one,) = store.judgements()
    assert (one.verdict, one.task.shown, one.comment, one.flag, one.seconds, one.at) == (
        *(SECOND, (1, 0), "c", "f", 2.5, EARLY),
    )
    assert (one.task.item.row_id, one.task.item.models, one.task.kind) == ("r", ("m", "n"), "label")
    assert (done.items, done.known_items, done.judgements, done.known) == (1, 0, 1, 0)


def test_an_order_that_the_file_does_not_have_is_not_known(store: LabelStore) -> None:
    import_entries(store, [pair(Said("ann", FIRST), Said("bea", FIRST, (0, 0)), Said("cem", FIRST, (1, 0)))])
    assert [one.task.seen for one in store.judgements()] == [False, False, True]


def test_the_same_again_adds_nothing(store: LabelStore) -> None:
    entries = [pair(Said("ann", FIRST), Said("bea", TIE)), pair(prompt="q")]
    import_entries(store, entries)
    before = store.all_judgements()
    done = import_entries(store, entries)
    assert store.all_judgements() == before
    assert (done.items, done.known_items, done.judgements, done.known) == (0, 2, 0, 2)


def test_what_was_taken_back_here_stays_so(store: LabelStore) -> None:
    import_entries(store, [pair(Said("ann", FIRST))])
    store.reopen(store.judgements()[0].task.number, "undo")
    import_entries(store, [pair(Said("ann", FIRST))])
    assert store.judgements() == []


def test_items_that_ask_the_same_are_one_whatever_their_order(store: LabelStore) -> None:
    chat: Any = [{"role": "user", "content": "p"}]
    entries = [
        pair(Said("ann", FIRST, (0, 1))),
        pair(Said("bea", FIRST, (0, 1)), responses=("y", "x")),
        pair(Said("cem", SECOND), prompt=chat, responses=("y", "x")),
        Entry(Item("ranking", "p", ("x", "y")), [Said("dev", Verdict(((1,), (0,))))]),
    ]
    done = import_entries(store, entries)
    assert current(store) == [
        (1, "ann", FIRST),
        (1, "bea", BETTER_SECOND),
        (1, "cem", Verdict(((0,), (1,)), "slightly")),
        (1, "dev", BETTER_SECOND),
    ]
    assert [one.task.shown for one in store.judgements()][:2] == [(0, 1), (1, 0)]
    assert done.items == 1


def test_identical_responses_are_found_in_another_order(store: LabelStore) -> None:
    store.add_items([Item("ranking", "p", ("a", "b", "a", "c"))])
    other = Item("ranking", "p", ("c", "a", "a", "b"))
    import_entries(store, [Entry(other, [Said("ann", order(0, (1, 2), 3), (3, 0, 1))])])
    (one,) = store.judgements()
    assert one.verdict == order(3, (0, 2), 1)
    assert one.task.shown == (1, 3, 0)


def test_a_rating_is_another_item_than_a_ranking(store: LabelStore) -> None:
    entries = [
        pair(Said("ann", FIRST)),
        Entry(Item("rating", "p", ("x", "y")), [Said("ann", Verdict(ratings=(1, 2)))]),
    ]
    assert import_entries(store, entries).items == 2


def test_scores_that_come_later_renew_the_priority(store: LabelStore) -> None:
    import_entries(store, [pair()])
    import_entries(store, [pair(responses=("y", "x"), priority=0.5)])
    assert store.items()[0].priority == 0.5


def test_a_file_replaces_only_what_is_older(store: LabelStore) -> None:
    import_entries(store, [pair(Said("ann", FIRST, at=EARLY), Said("bea", FIRST, at=LATE))])
    done = import_entries(store, [pair(Said("ann", TIE, at=LATE), Said("bea", TIE, at=EARLY))])
    assert {name: verdict for _, name, verdict in current(store)} == {"ann": TIE, "bea": FIRST}
    assert (done.judgements, done.older) == (1, 1)
    assert import_entries(store, [pair(Said("ann", FIRST))]).older == 1
    assert "left out: 1 judgements other than what the same annotator says here" in "\n".join(done.describe())


def test_the_last_of_an_annotator_in_the_files_counts(store: LabelStore) -> None:
    entries = [
        pair(Said("ann", FIRST)),
        pair(Said("ann", TIE)),
        pair(Said("bea", FIRST, at=LATE)),
        pair(Said("bea", TIE, at=EARLY)),
    ]
    done = import_entries(store, entries)
    assert {name: verdict for _, name, verdict in current(store)} == {"ann": TIE, "bea": FIRST}
    assert done.repeated == 2
    assert (
        "left out: 2 judgements that their annotator gave again in the files; the last counts"
        in done.describe()
    )


def test_judgements_of_nobody_are_by_as_many(store: LabelStore) -> None:
    done = import_entries(store, [pair(Said("", FIRST), Said("", TIE))])
    assert {name: verdict for _, name, verdict in current(store)} == {"unsigned": FIRST, "unsigned-2": TIE}
    assert done.unsigned == 2
    again = import_entries(store, [pair(Said("unsigned", FIRST)), pair(Said("unsigned-2", TIE))])
    assert (again.judgements, again.known, again.unsigned) == (0, 2, 0)


def test_what_a_mode_cannot_hold_is_counted(store: LabelStore) -> None:
    ratings = [Said("ann", Verdict(ratings=(7,))), Said("bea", Verdict(ratings=(2,)))]
    more = Entry(Item("rating", "q", ("x",)), [Said("ann", Verdict(ratings=(9,)))], place="f:2")
    done = import_entries(store, [Entry(Item("rating", "p", ("x",)), ratings, place="f:1"), more])
    assert [name for _, name, _ in current(store)] == ["bea"]
    assert done.not_held == {"judgements that a rating cannot hold": 2}
    assert (
        "left out: 2 judgements that a rating cannot hold, such as f:1: ratings: expected 1 numbers from 1 to 5, "
        "found [7]"
    ) in done.describe()


def test_items_that_no_page_can_ask_are_counted(store: LabelStore) -> None:
    entries = [
        pair(Said("ann", TIE), responses=("x", "x")),
        Entry(Item("ranking", "p", tuple("abcdefghij"))),
        Entry(Item("ranking", "q", tuple("abcdefghi"))),
        Entry(Item("rating", "q", ("x",))),
    ]
    done = import_entries(store, entries)
    assert [item.prompt for item in store.items()] == ["q", "q"]
    assert done.not_held == {
        "items to be judged by pairwise, which takes 2 different responses": 1,
        "items to be judged by ranking, which takes 2 to 9 different responses": 1,
    }


def test_programs_stay_programs(store: LabelStore) -> None:
    import_entries(store, [pair(Said("rm", FIRST, machine="reward model"))])
    assert store.machines() == {"rm": "reward model"}


def test_answers_become_tests(store: LabelStore) -> None:
    entries = [
        pair(Said("ann", FIRST, comment="because"), Said("bea", FIRST)),
        pair(Said("ann", FIRST), Said("bea", TIE), prompt="q"),
        pair(prompt="r"),
    ]
    done = import_entries(store, entries, gold=True)
    (item,) = store.items()
    assert (item.gold, item.explanation, item.prompt) == (FIRST, "because", "p")
    assert store.judgements() == []
    assert done.not_held == {
        "items whose annotators disagree on the answer, which are no tests": 1,
        "items without an answer, which are no tests": 1,
    }


@pytest.mark.parametrize("rows", ["pairs", "votes", "rankings"])
def test_an_export_imported_where_it_came_from_adds_nothing(
    rows: Any, store: LabelStore, tmp_path: Path
) -> None:
    import_entries(store, [pair(Said("ann", FIRST), Said("bea", SECOND, (1, 0)), Said("cem", TIE))])
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rows_as_bytes(path, export_judgements(store.judgements(), ExportSettings(rows)).rows))
    done = import_entries(store, read_file(path).entries)
    assert (done.items, done.judgements, done.known) == (0, 0, 3)
    with LabelStore(tmp_path / "other.db") as other:
        assert import_entries(other, read_file(path).entries).judgements == 3


def test_progress_is_told_a_judgement_at_a_time(store: LabelStore) -> None:
    told: list[None] = []
    import_entries(store, [pair(Said("ann", FIRST), Said("bea", FIRST))], told=lambda: told.append(None))
    assert len(told) == 2


def test_what_is_said_of_an_import() -> None:
    assert Imported(items=1, known_items=2, judgements=3, known=4, unsigned=1).describe() == [
        "1 item added, 2 were there",
        "3 judgements added, 4 were there",
        "1 judgements name nobody: they are by 'unsigned', and -2, -3 where several judge an item",
    ]


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [
        ("a rule", None, "f:1: expected the annotator 'rm' to be a program .a rule., .* found a person"),
        (None, "a rule", "f:1: expected the annotator 'rm' to be a person, .* found a program .a rule."),
        ("a rule", "a model", r"to be a program .a rule., .* found a program .a model."),
    ],
)
def test_a_person_and_a_program_of_one_name_are_refused_before_anything_is_written(
    here: str | None, there: str | None, expected: str, store: LabelStore
) -> None:
    known = pair(Said("rm", FIRST, machine=here))
    import_entries(store, [known])
    new = pair(Said("rm", FIRST, machine=there), prompt="q")
    new.place = "f:1"
    other = pair(Said("new rule", FIRST, machine="a rule"), prompt="r")
    with pytest.raises(ExchangeError, match=expected):
        import_entries(store, [other, new])
    with LabelStore(store.path.with_name("new.db")) as empty, pytest.raises(ExchangeError, match=expected):
        import_entries(empty, [known, new])
    assert (len(store.items()), len(store.judgements())) == (1, 1)
    assert "new rule" not in store.machines()
    # another tool's file does not say that it was a program, and adds nothing
    known.said = [Said("rm", FIRST)]
    assert import_entries(store, [known]).known == 1


def test_rows_that_ask_the_same_are_counted_with_the_ids_that_are_not_kept(store: LabelStore) -> None:
    entries = [
        pair(row_id="1", models=("m", "n")),
        pair(row_id="2"),
        pair(responses=("y", "x"), row_id="1", models=("n", "m")),
        pair(row_id="1", columns={"topic": "t", "at": "now"}),
        pair(row_id="1", columns={"at": "now"}),
        pair(row_id="1", domain="d"),
        pair(row_id="1", models=("m", "o")),
    ]
    for number, entry in enumerate(entries, start=1):
        entry.place = f"f:{number}"
    done = import_entries(store, entries)
    assert done.describe()[0] == "1 item added, 0 were there, in 7 rows"
    line = "left out: id and other fields of {} rows that ask what another row, or an item here, asks ({}); "
    line += "what was said of them is kept"
    assert done.notes == [line.format(4, "2, 1, 1, 1")]
    assert import_entries(store, [pair(row_id="3")]).notes == [line.format(1, "3")]
    many = [pair(row_id=str(number)) for number in range(2, 9)]
    assert import_entries(store, many).notes == [line.format(7, "2, 3, 4, 5, 6 and 2 more")]
    many[0].repeats = True  # its file's note says so
    assert import_entries(store, many[:1]).notes == []
    assert (store.items()[0].row_id, store.items()[0].models) == ("1", ("m", "n"))


def test_fields_of_a_spreadsheet_are_the_same_fields(store: LabelStore) -> None:
    import_entries(store, [pair(columns={"score": 0.5, "tags": ["a"], "note": "n", "none": None})])
    cells = {"score": "0.5", "tags": '["a"]', "note": "n", "none": "", "finished": "[true, false]"}
    assert import_entries(store, [pair(columns=cells)]).notes == []


def test_unsigned_files_one_after_the_other_are_as_many_people(store: LabelStore) -> None:
    first, second = pair(Said("", FIRST)), pair(Said("", TIE))
    for entry, added in ((first, 1), (second, 1), (first, 0), (second, 0)):
        done = import_entries(store, [entry])
        assert (done.judgements, done.known, done.older) == (added, 1 - added, 0)
    assert {name: verdict for _, name, verdict in current(store)} == {"unsigned": FIRST, "unsigned-2": TIE}
    both = import_entries(store, [pair(Said("", TIE), Said("", FIRST))])
    assert (both.judgements, both.known) == (0, 2)


def test_what_was_taken_back_is_not_said_to_be_added(store: LabelStore) -> None:
    said = pair(Said("ann", FIRST, at=LATE))
    import_entries(store, [said])
    task = store.judgements()[0].task.number
    store.reopen(task, "undo")
    done = import_entries(store, [said])
    assert (done.judgements, done.taken_back) == (0, 1)
    assert "left out: 1 judgements that were taken back here" in done.describe()
    store.submit(task, TIE, submission="anew")  # earlier by its own time than the file's
    done = import_entries(store, [said])
    assert (done.judgements, done.older) == (0, 1)
    assert current(store) == [(1, "ann", TIE)]


def test_a_corrected_answer_takes_the_place_of_the_old_one(store: LabelStore) -> None:
    import_entries(store, [pair(Said("", FIRST, comment="old"))], gold=True)
    import_entries(store, [pair(Said("", FIRST), responses=("y", "x"))], gold=True)
    (item,) = store.items()
    assert (item.responses, item.gold, item.explanation) == (("x", "y"), BETTER_SECOND, "old")
