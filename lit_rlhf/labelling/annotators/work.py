"""Takes tasks out of the store as a person would, and hands in what a program says of them, until none are left.

Nothing is judged twice: a task that was submitted is not given again, one that was not is, and the same command goes on
with it. People and other programs may work on the same store meanwhile.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

from lit_rlhf.labelling.annotators.opinions import UNREADABLE_IN_A_ROW, Opinion, Tally, UnreadableError
from lit_rlhf.labelling.items import Task
from lit_rlhf.labelling.store import LabelStore, StaleJudgement

FIRST, MOST = 8, 256
"""Tasks that are held together at first, and at the most."""
SECONDS = 10.0
"""That tasks are held for, about; far less than a lease."""


def judge_in_batches(
    store: LabelStore,
    annotator: str,
    opinions: Callable[[Sequence[Task]], Sequence[Opinion]],
    tally: Tally,
    limit: int | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Judge until nothing is left for the annotator, or `limit` judgements were given.

    As many tasks are held together as take about :data:`SECONDS` by the pace of the last, so that people wait for none.

    Args:
        store: where tasks come from and go to.
        annotator: a name that the store knows as a program's.
        opinions: of some tasks, one each.
        tally: counts them, also those before an interruption.
        limit: judgements at the most; None = all.
        progress: told how many more were judged.
    """
    at_once = FIRST
    while tasks := store.next_tasks(annotator, _room(tally, limit, at_once)):
        start = monotonic()
        for task, opinion in zip(tasks, opinions(tasks), strict=True):
            hand_in(store, task, opinion, tally)
            progress(1)
        took = monotonic() - start
        if took < SECONDS / 2:
            at_once = min(2 * at_once, MOST)
        elif took > 2 * SECONDS:
            at_once = max(1, at_once // 2)


async def judge_at_once(
    store: LabelStore,
    annotator: str,
    opinion: Callable[[Task], Awaitable[Opinion]],
    tally: Tally,
    limit: int | None = None,
    at_once: int = 1,
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """The same with `at_once` tasks that are judged each by itself, and handed in as soon as there is an opinion.

    Arguments as for :func:`judge_in_batches`. An error of one opinion ends the others; those there are by then are
    handed in first. An answer that cannot be read becomes a skip once another can: where none can, the items stay.

    Raises:
        UnreadableError: :data:`UNREADABLE_IN_A_ROW` answers in a row cannot be read, or none of all.
    """
    held: dict[int, tuple[Task, asyncio.Future[Opinion]]] = {}
    unreadable: dict[int, tuple[Task, Opinion]] = {}
    could_read = False
    renew = store.settings.lease_seconds / 3
    try:
        while True:
            # what is held is among what the store gives, and is leased anew
            for task in store.next_tasks(annotator, _room(tally, limit, at_once) + len(unreadable)):
                if task.number not in held and task.number not in unreadable and len(held) < at_once:
                    held[task.number] = task, asyncio.ensure_future(opinion(task))
            if not held or len(unreadable) >= UNREADABLE_IN_A_ROW:
                if unreadable and (held or not could_read):
                    _, last = list(unreadable.values())[-1]
                    raise UnreadableError(len(unreadable), last, " and their items are left to others")
                _hand_in_all(store, unreadable, tally, progress)
                return
            flying = [one for _, one in held.values()]
            await asyncio.wait(flying, timeout=renew, return_when=asyncio.FIRST_COMPLETED)
            there = [number for number, (_, one) in held.items() if one.done()]
            for number in sorted(there, key=lambda number: held[number][1].exception() is not None):
                task, one = held.pop(number)
                said = one.result()
                if not said.readable:
                    unreadable[number] = task, said
                    continue
                could_read = True
                hand_in(store, task, said, tally)
                progress(1)
                _hand_in_all(store, unreadable, tally, progress)
    finally:
        flying = [one for _, one in held.values()]
        for one in flying:
            one.cancel()
        await asyncio.gather(*flying, return_exceptions=True)


def hand_in(store: LabelStore, task: Task, opinion: Opinion, tally: Tally) -> None:
    """Submit an opinion, unless another process of the same name was quicker."""
    try:
        store.submit(task.number, opinion.verdict, submission=uuid.uuid4().hex, comment=opinion.comment)
    except StaleJudgement:
        tally.elsewhere += 1
    else:
        tally.count(opinion.verdict)


def _hand_in_all(
    store: LabelStore,
    opinions: dict[int, tuple[Task, Opinion]],
    tally: Tally,
    progress: Callable[[int], None],
) -> None:
    for task, opinion in opinions.values():
        hand_in(store, task, opinion, tally)
        progress(1)
    opinions.clear()


def _room(tally: Tally, limit: int | None, at_once: int) -> int:
    return at_once if limit is None else max(0, min(at_once, limit - tally.judged))
