"""Nothing that was said is lost, doubled or changed; what is taken back can be said again."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from lit_rlhf.labelling import schema
from lit_rlhf.labelling.items import Item, Settings
from lit_rlhf.labelling.schema import StoreBusy, StoreError
from lit_rlhf.labelling.store import LabelStore, StaleJudgement
from lit_rlhf.labelling.verdicts import Verdict, VerdictError
from tests.labelling.conftest import pairs

FIRST = Verdict(ranking=((0,), (1,)), strength="better")
SECOND = Verdict(ranking=((1,), (0,)), strength="slightly")


def test_an_item_comes_back_whole(store: LabelStore) -> None:
    item = Item(
        "ranking",
        [{"role": "user", "content": "grüße \u202e\x00 ☃"}],
        ("a", "b", "a"),
        row_id="7",
        models=("x", "y", "z"),
        domain="d",
        priority=-0.25,
        gold=Verdict(ranking=((0, 2), (1,))),
        explanation="why",
        columns={"answer": [1, {"deep": None}]},
    )
    (added,) = store.add_items([item])
    assert added.number == 1
    assert store.item(1) == added == store.items()[0]
    assert {**vars(added), "number": 0} == vars(item)


def test_the_same_item_is_added_once_and_its_priority_renewed(store: LabelStore) -> None:
    first = store.add_items(pairs(3))
    scored = [Item(**{**vars(item), "number": 0, "priority": 5.0}) for item in pairs(1)]
    again = store.add_items([*pairs(4), *scored])
    assert [item.number for item in again] == [1, 2, 3, 4, 1]
    assert [item.number for item in first] == [1, 2, 3]
    assert store.item(1).priority == 5.0
    store.add_items(pairs(1))
    assert store.item(1).priority == 5.0  # a file without scores takes nothing away


def test_a_judgement_is_kept_as_it_was_said(store: LabelStore) -> None:
    store.add_items(pairs(1))
    task = store.next_task("ann")
    said = store.submit(task.number, SECOND, submission="s", comment="hm", flag="typo", seconds=2.5)
    assert (said.number, said.annotator, said.verdict) == (1, "ann", SECOND)
    assert (said.comment, said.flag, said.seconds, said.replaces) == ("hm", "typo", 2.5, None)
    assert store.judgements() == [said] == store.history("ann") == store.all_judgements()
    assert store.current(task.number) == said


def test_a_submission_sent_twice_is_one_judgement(store: LabelStore) -> None:
    store.add_items(pairs(2))
    task = store.next_task("ann")
    said = store.submit(task.number, FIRST, submission="s")
    assert store.submit(task.number, FIRST, submission="s") == said
    assert len(store.all_judgements()) == 1
    with pytest.raises(StoreError, match="was for task 1"):
        store.submit(store.next_task("ann").number, FIRST, submission="s")


def test_a_revision_is_one_more_judgement(store: LabelStore) -> None:
    store.add_items(pairs(1))
    task = store.next_task("ann")
    first = store.submit(task.number, FIRST, submission="1")
    with pytest.raises(StaleJudgement, match="is 1 by now"):
        store.submit(task.number, SECOND, submission="2")
    second = store.submit(task.number, SECOND, submission="2", replaces=first.number)
    assert second.replaces == first.number
    assert store.judgements() == [second]
    assert store.judgements(since=1) == [second]
    assert store.all_judgements() == [first, second]
    with pytest.raises(StaleJudgement):
        store.submit(task.number, FIRST, submission="3", replaces=first.number)


def test_what_is_taken_back_is_asked_again(store: LabelStore) -> None:
    store.add_items(pairs(3))
    task = store.next_task("ann")
    store.submit(task.number, FIRST, submission="1")
    waiting = store.next_task("ann")
    assert store.reopen(task.number, "2") == task
    assert store.reopen(task.number, "2") == task  # sent twice
    assert store.task_of("2") == store.task_of("1") == task and store.task_of("3") is None
    assert store.judgements() == [] and store.current(task.number) is None
    assert store.progress().given == 0
    assert store.next_task("ann") == task  # before the one that waits
    with pytest.raises(StoreError, match="no judgement to take back"):
        store.reopen(task.number, "3")
    with pytest.raises(StaleJudgement):
        store.submit(task.number, SECOND, submission="4", replaces=1)
    again = store.submit(task.number, SECOND, submission="4")
    assert again.replaces == 2
    assert [said.verdict for said in store.all_judgements()] == [FIRST, None, SECOND]
    assert store.of_task(task.number) == store.all_judgements() and store.of_task(waiting.number) == []
    assert store.next_task("ann") == waiting


def test_judgements_cannot_be_changed_or_removed(store: LabelStore) -> None:
    store.add_items(pairs(1))
    store.submit(store.next_task("ann").number, FIRST, submission="1")
    connection = sqlite3.connect(store.path)
    for statement in ("UPDATE judgements SET verdict = NULL", "DELETE FROM judgements"):
        with pytest.raises(sqlite3.IntegrityError, match="only ever added"):
            connection.execute(statement)
    connection.close()


def test_a_verdict_has_to_be_of_the_item_s_mode(store: LabelStore) -> None:
    store.add_items(pairs(1))
    task = store.next_task("ann")
    with pytest.raises(VerdictError):
        store.submit(task.number, Verdict(ratings=(1, 2)), submission="1")
    assert store.all_judgements() == []
    with pytest.raises(StoreError, match="task 99"):
        store.submit(99, FIRST, submission="1")


def test_a_judgement_from_elsewhere_is_recorded_once(store: LabelStore) -> None:
    (item,) = store.add_items(pairs(1))
    at = "2024-05-06T07:08:09+00:00"
    said = store.record(item.number, "ann", FIRST, submission="f", shown=(1, 0), seconds=3.0, at=at)
    assert (said.at, said.seconds, said.task.shown, said.task.kind) == (at, 3.0, (1, 0), "label")
    assert store.record(item.number, "ann", FIRST, submission="f", shown=(1, 0)) == said
    revised = store.record(item.number, "ann", SECOND, submission="g")
    assert store.judgements() == [revised] and revised.replaces == said.number
    assert said.task.seen
    unknown = store.record(store.add_items(pairs(1, 1))[0].number, "ann", FIRST, submission="i")
    assert not unknown.task.seen and unknown.task.shown == (0, 1)
    assert store.next_task("ann") is None
    with pytest.raises(StoreError, match=r"expected \[0, 1\] in the order shown"):
        store.record(item.number, "bob", FIRST, submission="j", shown=(0,))
    with pytest.raises(StoreError, match="item 9"):
        store.record(9, "ann", FIRST, submission="h")


def test_progress_counts_what_counts(store: LabelStore) -> None:
    store.configure(Settings(overlap=2, repeats=0.0))
    store.add_items(pairs(2))
    store.add_annotator("rule", machine="a rule")
    for name, verdict, seconds in (
        ("ann", FIRST, 4.0),
        ("bob", Verdict(skip="?"), 6.0),
        ("rule", FIRST, None),
    ):
        task = store.next_task(name)
        store.submit(
            task.number, verdict, submission=name, seconds=seconds, flag="!" if name == "bob" else ""
        )
    progress = store.progress()
    assert (progress.items, progress.wanted, progress.given) == (2, 4, 2)  # a skip is no judgement
    assert progress.by_annotator == {"ann": 1, "bob": 1, "rule": 1}
    assert progress.machines == ["rule"] and progress.seconds_each == 5.0
    assert (progress.skipped, progress.flagged) == (1, 1)


def test_a_name_belongs_to_a_person_or_to_a_program(store: LabelStore) -> None:
    store.add_annotator("ann")
    store.add_annotator("ann")
    store.add_annotator("judge", machine="a rule")
    assert store.machines() == {"judge": "a rule"}
    with pytest.raises(StoreError, match="'ann' is the name of a person"):
        store.add_annotator("ann", machine="a rule")
    with pytest.raises(StoreError, match="a program \\(a rule\\)"):
        store.add_annotator("judge")


def test_settings_stay_in_the_file(tmp_path: Path) -> None:
    settings = Settings(seed=3, overlap=2, quota=5, order="active", guidelines="# be kind")
    with LabelStore(tmp_path / "l.db") as store:
        assert store.settings == Settings()
        store.configure(settings)
    with LabelStore(tmp_path / "l.db", create=False) as store:
        assert store.settings == settings


def test_many_at_once_lose_nothing_and_share_no_slot(tmp_path: Path) -> None:
    """Each thread has a store of its own, as processes do."""
    path, failures = tmp_path / "l.db", []
    with LabelStore(path) as store:
        store.configure(Settings(repeats=0.0))
        store.add_items(pairs(60))

    def work(name: str) -> None:
        try:
            with LabelStore(path) as mine:
                while (task := mine.next_task(name)) is not None:
                    mine.submit(task.number, FIRST, submission=f"{name} {task.number}")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"annotator {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with LabelStore(path) as store:
        said = store.judgements()
        assert len(said) == 60 == len({judgement.task.item.number for judgement in said})


def test_a_copy_is_whole_and_alone(store: LabelStore, tmp_path: Path) -> None:
    store.add_items(pairs(2))
    store.submit(store.next_task("ann").number, FIRST, submission="1")
    store.backup(tmp_path / "copy.db")
    assert not list(tmp_path.glob("copy.db-*")) and not list(tmp_path.glob("*.partial"))
    with LabelStore(tmp_path / "copy.db", create=False) as copy:
        assert copy.judgements() == store.judgements() and copy.items() == store.items()


def test_what_is_no_labelling_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="found none"):
        LabelStore(tmp_path / "none.db", create=False)
    with pytest.raises(StoreError, match="the folder"):
        LabelStore(tmp_path / "nowhere" / "l.db")
    (tmp_path / "text.db").write_text("something else entirely, longer than a header of SQLite's\n" * 20)
    with pytest.raises(StoreError, match="found something else"):
        LabelStore(tmp_path / "text.db")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE t (a)")
    other.close()
    with pytest.raises(StoreError, match="another program"):
        LabelStore(tmp_path / "other.db")


def test_an_older_file_is_migrated_and_a_copy_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "l.db"
    with LabelStore(path) as store:
        store.add_items(pairs(1))
        store.submit(store.next_task("ann").number, FIRST, submission="1")
        before = store.judgements()
    newer = "CREATE TABLE remarks (number INTEGER PRIMARY KEY) STRICT;\nALTER TABLE items ADD COLUMN colour TEXT;\n"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (schema.FIRST, newer))
        with LabelStore(path) as store:
            assert store.judgements() == before
        assert (tmp_path / "l.db.version-1.backup").exists()
    with pytest.raises(StoreError, match="is of version 2"):
        LabelStore(path)
    with LabelStore(tmp_path / "l.db.version-1.backup") as copy:
        assert copy.judgements() == before


def test_a_migration_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "l.db"
    LabelStore(path).close()
    with monkeypatch.context() as patch:
        patch.setattr(
            schema, "MIGRATIONS", (schema.FIRST, "CREATE TABLE t (a);\nALTER TABLE nothing ADD b;\n")
        )
        with pytest.raises(sqlite3.OperationalError):
            LabelStore(path)
    LabelStore(path).close()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 't'").fetchone() == (0,)
    connection.close()


def test_a_copy_that_is_served_is_in_write_ahead_mode_again(store: LabelStore, tmp_path: Path) -> None:
    store.backup(tmp_path / "copy.db")
    with LabelStore(tmp_path / "copy.db"):
        connection = sqlite3.connect(tmp_path / "copy.db")
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.close()


def test_a_copy_takes_no_place_of_a_file_in_use(store: LabelStore, tmp_path: Path) -> None:
    used = tmp_path / "used.db"
    with LabelStore(used) as other:
        other.add_items(pairs(1))
        with pytest.raises(StoreError, match=r"found used\.db-wal beside it"):
            store.backup(used)
        assert len(other.items()) == 1
    store.backup(used)
    with LabelStore(used) as copy:
        assert copy.items() == []


def test_a_copy_replaces_an_older_copy_and_nothing_else(store: LabelStore, tmp_path: Path) -> None:
    other = tmp_path / "candidates.jsonl"
    other.write_text('{"prompt": "p", "responses": ["a", "b"]}\n')
    with pytest.raises(StoreError, match="found something else"):
        store.backup(other)
    assert other.read_text().startswith('{"prompt"')
    store.backup(tmp_path / "copy.db")
    store.add_items(pairs(2))
    store.backup(tmp_path / "copy.db")
    with LabelStore(tmp_path / "copy.db") as copy:
        assert len(copy.items()) == 2


def test_an_empty_file_is_no_labelling_file_unless_one_is_to_be_made(tmp_path: Path) -> None:
    (tmp_path / "l.db").touch()
    with pytest.raises(StoreError, match="found an empty one"):
        LabelStore(tmp_path / "l.db", create=False)
    LabelStore(tmp_path / "l.db").close()


def test_a_corrected_answer_takes_the_place_of_the_old_one(store: LabelStore) -> None:
    test = Item("pairwise", "p", ("right", "wrong"), gold=FIRST, explanation="a")
    (first,) = store.add_items([test])
    turned = Item("pairwise", "p", ("wrong", "right"), gold=FIRST, explanation="b")
    (second,) = store.add_items([turned])
    assert (second.number, second.responses) == (first.number, ("right", "wrong"))
    assert second.gold == Verdict(ranking=((1,), (0,)), strength="better") and second.explanation == "b"
    with pytest.raises(StoreError, match="cannot be given"):
        store.add_items([Item("rating", "p", ("a",), gold=Verdict(ratings=(9,)))])


def test_a_prompt_typed_live_is_asked_when_it_comes_as_a_candidate(store: LabelStore) -> None:
    (item,) = pairs(1)
    task = store.live_task(item, "ann")
    store.add_items([item])
    assert store.progress().wanted == 1 and store.next_task("bob").item == task.item
    store.live_task(item, "cid")  # and the reverse takes nothing away
    assert store.progress().wanted == 1


def test_half_of_a_surrogate_pair_is_refused(store: LabelStore) -> None:
    (bad,) = pairs(1)
    with pytest.raises(StoreError, match="surrogate"):
        store.add_items([Item("pairwise", "p", ("a", "\ud800"))])
    store.add_items([bad])
    task = store.next_task("ann")
    for fields in ({"comment": "\ud800"}, {"flag": "\ud800"}):
        with pytest.raises(VerdictError, match="surrogate"):
            store.submit(task.number, FIRST, submission="1", **fields)
    with pytest.raises(VerdictError, match="surrogate"):
        store.submit(task.number, Verdict(skip="\ud800"), submission="1")
    assert store.all_judgements() == []


def test_who_cannot_write_for_long_is_told(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store._writer.execute("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy, match="cannot be written to now"):
        store.add_items(pairs(1))
    other.execute("ROLLBACK")
    other.close()
    assert len(store.add_items(pairs(1))) == 1
