"""Who is given what: free slots once, the same again after a reload, tests and repeats in their share."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from lit_rlhf.labelling import assignment
from lit_rlhf.labelling.items import Item, Settings, Task
from lit_rlhf.labelling.store import LabelStore
from lit_rlhf.labelling.verdicts import Verdict
from tests.labelling.conftest import pairs

FIRST = Verdict(ranking=((0,), (1,)), strength="better")


def work(store: LabelStore, name: str, most: int = 10_000) -> list[Task]:
    """Everything that she is given, judged at once."""
    done = []
    while len(done) < most and (task := store.next_task(name)) is not None:
        store.submit(task.number, FIRST, submission=f"{name} {task.number}")
        done.append(task)
    return done


def work_by_ranking(store: LabelStore, name: str) -> list[Task]:
    """The same with rankings, as they are shown."""
    done = []
    while (task := store.next_task(name)) is not None:
        verdict = task.by_index(Verdict(ranking=tuple((place,) for place in range(len(task.shown)))))
        store.submit(task.number, verdict, submission=f"{name} {task.number}")
        done.append(task)
    return done


def gold(count: int) -> list[Item]:
    return [Item("pairwise", f"test {n}", ("right", "wrong"), gold=FIRST) for n in range(count)]


def test_a_reload_gives_the_same_task(store: LabelStore) -> None:
    store.add_items(pairs(5))
    assert store.next_task("ann") == store.next_task("ann")
    assert len(store.next_tasks("ann", 3)) == 3
    assert [task.number for task in store.next_tasks("ann", 3)] == [3, 2, 1]


def test_each_slot_is_given_once_while_it_is_held(store: LabelStore) -> None:
    store.add_items(pairs(2))
    given = [store.next_task(name) for name in ("ann", "bob", "cid")]
    assert given[2] is None
    assert given[0].item != given[1].item
    assert store.why_nothing("cid") == "waiting"
    store.submit(given[0].number, FIRST, submission="1")
    assert store.next_task("cid") is None


def test_a_skip_leaves_the_slot_to_somebody_else(store: LabelStore) -> None:
    store.add_items(pairs(1))
    store.submit(store.next_task("ann").number, Verdict(skip="?"), submission="1")
    assert store.next_task("ann") is None and store.why_nothing("ann") == "done"
    assert store.next_task("bob") is not None


def test_a_file_without_items_is_told_from_one_that_is_done(store: LabelStore) -> None:
    store.live_task(Item("pairwise", "typed in", ("a", "b")), "ann")
    assert store.why_nothing("bob") == "empty"
    store.add_items(pairs(1))
    store.submit(store.next_task("bob").number, FIRST, submission="1")
    assert store.why_nothing("bob") == "done"


def test_overlap_asks_different_people(store: LabelStore) -> None:
    store.configure(Settings(overlap=2, repeats=0.0))
    store.add_items(pairs(10))
    by = Counter(task.item.number for name in ("ann", "bob", "cid") for task in work(store, name))
    assert set(by.values()) == {2} and len(by) == 10
    assert store.why_nothing("cid") == "done"


def test_who_lets_it_lie_loses_it_to_the_next(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.configure(Settings(lease_seconds=60.0))
    store.add_items(pairs(1))
    late = store.next_task("ann")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    assert store.next_task("bob").item == late.item
    assert store.next_task("ann") is None  # it is bob's now
    said = store.submit(late.number, FIRST, submission="late")  # what she did is not lost for that
    assert store.judgements() == [said]


def test_who_lets_it_lie_keeps_it_while_nobody_takes_it(
    store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.configure(Settings(lease_seconds=60.0))
    store.add_items(pairs(1))
    task, now = store.next_task("ann"), time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    assert store.next_task("ann") == task
    assert store.next_task("bob") is None  # her lease began anew


def test_a_quota_ends_the_work_of_one(store: LabelStore) -> None:
    store.configure(Settings(quota=3))
    store.add_items(pairs(8))
    assert len(work(store, "ann")) == 3
    assert store.why_nothing("ann") == "quota" and store.judged_by("ann") == 3
    assert len(work(store, "bob")) == 3


def test_a_quota_counts_what_is_in_hand(store: LabelStore) -> None:
    store.configure(Settings(quota=3, repeats=0.0))
    store.add_items(pairs(8))
    assert len(store.next_tasks("ann", 5)) == 3


def test_repeats_keep_the_order_of_before_whatever_the_seed_is_now(store: LabelStore) -> None:
    store.add_items([Item("ranking", f"p{n}", ("a", "b", "c", "d")) for n in range(60)])
    store.configure(Settings(repeats=0.0, quota=30))
    before = {}
    for task in work_by_ranking(store, "ann"):
        before[task.item.number] = task.shown
    store.configure(Settings(repeats=1.0, gold_share=0.0, seed=5))
    again = [task for task in work_by_ranking(store, "ann") if task.kind != "label"]
    asked = [task for task in again if task.item.number in before]
    assert len(asked) > 10
    for task in asked:
        order = before[task.item.number]
        assert task.shown == (order[::-1] if task.kind == "swap" else order)


def test_what_was_seen_in_an_unknown_order_is_not_repeated(store: LabelStore) -> None:
    items = store.add_items(pairs(20))
    for item in items[:15]:
        store.record(item.number, "ann", FIRST, submission=str(item.number))
    store.configure(Settings(repeats=1.0, gold_share=0.0))
    assert {task.kind for task in work(store, "ann", 5)} == {"label"}


def test_active_order_takes_what_teaches_most(store: LabelStore) -> None:
    priorities = {0: -3.0, 1: 0.5, 2: None, 3: -0.1}
    store.add_items([Item(**{**vars(item), "priority": priorities[n]}) for n, item in enumerate(pairs(4))])
    store.configure(Settings(order="active", repeats=0.0))
    assert [task.item.row_id for task in work(store, "ann")] == ["row 1", "row 3", "row 0", "row 2"]


def test_random_order_is_another_for_another_seed(store: LabelStore) -> None:
    store.add_items(pairs(30))
    orders = []
    for seed, name in ((0, "ann"), (1, "bob"), (0, "cid")):
        store.configure(Settings(seed=seed, repeats=0.0, overlap=9))
        orders.append([task.item.number for task in work(store, name)])
    assert orders[0] == orders[2] != orders[1]
    assert orders[0] != sorted(orders[0])


def test_tests_come_in_their_share(store: LabelStore) -> None:
    store.configure(Settings(gold_share=0.2, repeats=0.0))
    store.add_items([*pairs(200), *gold(100)])
    kinds = Counter(task.kind for task in work(store, "ann"))
    assert kinds["label"] == 200 and 30 < kinds["gold"] < 75  # 200 · 0.2/0.8 = 50
    assert set(kinds) == {"label", "gold"}
    assert store.progress().wanted == 200


def test_practice_comes_first_and_outside_the_quota(store: LabelStore) -> None:
    store.configure(Settings(practice=3, quota=2, gold_share=0.0, repeats=0.0))
    store.add_items([*pairs(5), *gold(4)])
    assert [task.kind for task in work(store, "ann")] == ["practice"] * 3 + ["label"] * 2


def test_repeats_lie_apart_and_half_of_them_are_reversed(store: LabelStore) -> None:
    store.configure(Settings(repeats=0.3, gold_share=0.0))
    store.add_items(pairs(120))
    tasks = work(store, "ann")
    first = {task.item.number: place for place, task in enumerate(tasks) if task.kind == "label"}
    again = [(place, task) for place, task in enumerate(tasks) if task.kind != "label"]
    assert len(first) == 120 and 30 < len(again) < 75
    assert len({task.item.number for _, task in again}) == len(again)
    for place, task in again:
        before = first[task.item.number]
        assert place - before > assignment.APART
        shown = tasks[before].shown
        assert task.shown == (shown[::-1] if task.kind == "swap" else shown)
    kinds = Counter(task.kind for _, task in again)
    assert min(kinds["repeat"], kinds["swap"]) > len(again) / 4


def test_what_was_typed_into_the_page_is_for_who_typed_it(store: LabelStore) -> None:
    task = store.live_task(Item("pairwise", "mine", ("a", "b")), "ann")
    assert task.kind == "live" and store.next_task("bob") is None
    assert store.next_task("ann") == task
    store.submit(task.number, FIRST, submission="1")
    assert store.progress().wanted == 0
