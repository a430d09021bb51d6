"""Programs take tasks out of a real store: nothing twice, nothing left, leases and limits kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from lit_rlhf.labelling.annotators import work
from lit_rlhf.labelling.annotators.opinions import Opinion, Tally, UnreadableError, skipped
from lit_rlhf.labelling.annotators.work import judge_at_once, judge_in_batches
from lit_rlhf.labelling.items import Item, Settings, Task
from lit_rlhf.labelling.store import LabelStore
from lit_rlhf.labelling.verdicts import LONGEST_REMARK, Verdict

ONE_EACH = Settings(repeats=0.0, gold_share=0.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LabelStore]:
    with LabelStore(tmp_path / "labels.db") as made:
        made.configure(ONE_EACH)
        made.add_items([Item("ranking", f"prompt {number}", ("a", "b")) for number in range(30)])
        made.add_annotator("rule", machine="a rule of the test")
        yield made


def longer(tasks: Sequence[Task]) -> list[Opinion]:
    return [Opinion(Verdict(((1,), (0,))), comment=f"said of {task.item.prompt}") for task in tasks]


async def at_once(task: Task) -> Opinion:
    await asyncio.sleep(0)
    return longer([task])[0]


def test_everything_is_judged_once_and_marked_as_a_programs(store: LabelStore) -> None:
    tally, steps = Tally(), list[int]()
    judge_in_batches(store, "rule", longer, tally, progress=steps.append)
    said = store.all_judgements()
    assert sorted(one.task.item.prompt for one in said) == sorted(f"prompt {number}" for number in range(30))
    assert all(one.verdict == Verdict(((1,), (0,))) for one in said)
    assert all(one.comment == f"said of {one.task.item.prompt}" for one in said)
    assert tally.judged == sum(steps) == 30 and store.progress().machines == ["rule"]
    judge_in_batches(store, "rule", longer, tally)
    assert len(store.all_judgements()) == 30


def test_the_order_is_drawn_as_a_persons_and_kept(store: LabelStore) -> None:
    seen: dict[int, tuple[int, ...]] = {}

    def opinions(tasks: Sequence[Task]) -> list[Opinion]:
        seen.update({task.item.number: task.shown for task in tasks})
        return longer(tasks)

    judge_in_batches(store, "rule", opinions, Tally())
    assert {one.task.item.number: one.task.shown for one in store.judgements()} == seen
    assert set(seen.values()) == {(0, 1), (1, 0)}


@pytest.mark.parametrize("limit", [1, 11, 29])
def test_a_limit_is_kept_and_the_next_call_goes_on(store: LabelStore, limit: int) -> None:
    first, second = Tally(), Tally()
    judge_in_batches(store, "rule", longer, first, limit=limit)
    assert first.judged == len(store.all_judgements()) == limit
    asyncio.run(judge_at_once(store, "rule", at_once, second, at_once=4, limit=30 - limit))
    assert second.judged == 30 - limit and len(store.all_judgements()) == 30


def test_batches_grow_while_they_are_quick_and_shrink_when_slow(
    store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, sizes = [0.0], list[int]()
    monkeypatch.setattr(work, "monotonic", lambda: clock[0])
    monkeypatch.setattr(work, "FIRST", 4)
    monkeypatch.setattr(work, "MOST", 8)

    def opinions(tasks: Sequence[Task]) -> list[Opinion]:
        sizes.append(len(tasks))
        clock[0] += 1.0 if len(sizes) < 3 else 100.0
        return longer(tasks)

    judge_in_batches(store, "rule", opinions, Tally())
    assert sizes == [4, 8, 8, 4, 2, 1, 1, 1, 1]


def test_people_and_a_program_share_the_slots(store: LabelStore) -> None:
    task = store.next_task("ann")
    assert task is not None
    tally = Tally()
    judge_in_batches(store, "rule", longer, tally)
    assert tally.judged == 29 and store.why_nothing("rule") == "waiting"
    assert task.item.number not in {one.task.item.number for one in store.judgements()}


def test_tasks_are_judged_side_by_side_and_never_more_than_asked_for(store: LabelStore) -> None:
    flying, most = [0], [0]

    async def opinion(task: Task) -> Opinion:
        flying[0] += 1
        most[0] = max(most[0], flying[0])
        await asyncio.sleep(0.001 * (task.number % 3))
        flying[0] -= 1
        return longer([task])[0]

    tally = Tally()
    asyncio.run(judge_at_once(store, "rule", opinion, tally, at_once=4))
    assert most[0] == 4 and tally.judged == 30
    assert len({one.task.number for one in store.all_judgements()}) == 30


def test_an_error_ends_the_work_with_what_was_judged_in_the_store(store: LabelStore) -> None:
    cancelled = []

    async def opinion(task: Task) -> Opinion:
        try:
            await asyncio.sleep(0.001 if task.number < 6 else 0.05 if task.number == 6 else 60)
        except asyncio.CancelledError:
            cancelled.append(task.number)
            raise
        if task.number == 6:
            raise RuntimeError("the server has gone")
        return longer([task])[0]

    tally = Tally()
    with pytest.raises(RuntimeError, match="has gone"):
        asyncio.run(judge_at_once(store, "rule", opinion, tally, at_once=3))
    assert tally.judged == len(store.all_judgements()) == 5 and cancelled == [7, 8]
    judge_in_batches(store, "rule", longer, tally)
    assert len(store.all_judgements()) == 30


def test_an_opinion_that_came_with_an_error_of_another_is_handed_in(store: LabelStore) -> None:
    async def opinion(task: Task) -> Opinion:
        if task.number == 1:
            raise RuntimeError("the first one fails")
        return longer([task])[0]

    with pytest.raises(RuntimeError, match="the first one fails"):
        asyncio.run(judge_at_once(store, "rule", opinion, Tally(), at_once=3))
    assert len(store.all_judgements()) == 2


def test_a_lease_is_renewed_while_a_judge_thinks(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.configure(replace(ONE_EACH, lease_seconds=0.03))
    asked, next_tasks = [], store.next_tasks

    def counted(annotator: str, limit: int) -> list[Task]:
        asked.append([task.number for task in next_tasks(annotator, limit)])  # which leases them anew
        return next_tasks(annotator, limit)

    monkeypatch.setattr(store, "next_tasks", counted)

    async def opinion(task: Task) -> Opinion:
        while len(asked) < 4:
            await asyncio.sleep(0.001)
        return longer([task])[0]

    tally = Tally()
    asyncio.run(asyncio.wait_for(judge_at_once(store, "rule", opinion, tally, limit=1), timeout=30))
    assert asked[:4] == [[1]] * 4 and tally.judged == 1


def test_a_task_that_another_process_was_quicker_with_is_counted(store: LabelStore) -> None:
    def opinions(tasks: Sequence[Task]) -> list[Opinion]:
        if not store.all_judgements():
            store.submit(tasks[0].number, Verdict(((0, 1),)), submission="the other's")
        return longer(tasks)

    tally = Tally()
    judge_in_batches(store, "rule", opinions, tally)
    assert tally.elsewhere == 1 and tally.judged == 29
    assert len(store.all_judgements()) == 30
    assert store.all_judgements()[0].verdict == Verdict(((0, 1),))
    assert any("1 more had been judged meanwhile" in line for line in tally.lines())


def test_the_tally_says_what_was_said() -> None:
    tally = Tally()
    for verdict in [Verdict(((0, 1),)), Verdict(((0,), (1,))), Verdict(ratings=(3,))]:
        tally.count(verdict)
    for number in range(9):
        tally.count(skipped(f"reason {number % 7}").verdict)
    assert list(tally.lines()) == [
        "12 judged, 1 of them ties, 9 skipped",
        "  2 skipped: reason 0",
        "  2 skipped: reason 1",
        "  1 skipped: reason 2",
        "  1 skipped: reason 3",
        "  1 skipped: reason 4",
        "  2 skipped for 2 other reasons",
    ]
    long = skipped("x" * 5000).verdict.skip
    assert long is not None and len(long) == LONGEST_REMARK


def unreadable_but(*readable: int) -> Callable[[Task], Awaitable[Opinion]]:
    """One whose answers can be read where their number, from 1, is among these."""
    asked = count(1)

    async def opinion(task: Task) -> Opinion:
        if next(asked) in readable:
            return Opinion(Verdict(((1,), (0,))))
        return Opinion(Verdict(skip="could not be read \x1b[2J"), readable=False)

    return opinion


def test_who_cannot_be_understood_is_not_asked_on_and_uses_nothing_up(store: LabelStore) -> None:
    tally = Tally()
    with pytest.raises(UnreadableError, match=r"8 answers in a row .*could not be read \\x1b\[2J"):
        asyncio.run(judge_at_once(store, "rule", unreadable_but(), tally))
    assert tally.judged == 0 and store.judgements() == []
    assert len(store.next_tasks("rule", 100)) == 30  # with a better model, under the same name


def test_nothing_is_used_up_where_the_file_is_short(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "short.db") as store:
        store.add_items([Item("ranking", f"prompt {number}", ("a", "b")) for number in range(3)])
        with pytest.raises(UnreadableError, match="3 answers in a row"):
            asyncio.run(judge_at_once(store, "rule", unreadable_but(), Tally()))
        assert store.judgements() == []


def test_an_answer_that_cannot_be_read_among_others_is_a_skip(store: LabelStore) -> None:
    tally = Tally()
    asyncio.run(judge_at_once(store, "rule", unreadable_but(*range(3, 31, 3)), tally))
    assert tally.judged == 30 and tally.reasons.total() == 20
    assert "\x1b" not in "".join(tally.lines())
