"""Processes that compute ahead: order, errors, interrupts, ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator

import pytest

from lit_rlhf.data.formats import RowError
from lit_rlhf.data.streaming.ahead import computed_ahead


def slow_if_even(task: int) -> tuple[int, int]:
    time.sleep(0.02 * (task % 2 == 0))
    return task, os.getpid()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_the_order_of_the_tasks(workers: int) -> None:
    results = list(computed_ahead(slow_if_even, range(12), workers))
    assert [task for task, _ in results] == list(range(12))
    assert len({process for _, process in results}) == max(1, workers)
    assert (os.getpid() in {process for _, process in results}) == (workers == 0)


def refused(task: int) -> int:
    if task == 3:
        raise RowError("d.jsonl:7", "text", "a number")
    return task


@pytest.mark.parametrize(("workers", "kind"), [(0, RowError), (2, RuntimeError)])
def test_what_goes_wrong_is_raised_in_its_turn(workers: int, kind: type[Exception]) -> None:
    """Under its own name where that can be sent, and a RowError cannot; with the traceback as a note."""
    results = computed_ahead(refused, range(9), workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(kind, match=r"d\.jsonl:7: expected text, found a number") as raised:
        next(results)
    assert not workers or "in refused" in raised.value.__notes__[0]
    assert multiprocessing.active_children() == []


def test_tasks_are_not_taken_far_ahead() -> None:
    taken = []

    def tasks() -> Iterator[int]:
        for task in range(100):
            taken.append(task)
            yield task

    results = computed_ahead(refused, tasks(), 1)
    next(results)
    assert len(taken) <= 4
    results.close()


def killed(task: int) -> int:
    if task == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def test_a_killed_process_ends_the_loop() -> None:
    with pytest.raises(RuntimeError, match=r"DataLoader worker .*(killed by signal|exited unexpectedly)"):
        list(computed_ahead(killed, range(9), 1))


def interrupt_handler(task: int) -> bool:
    return signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_an_interrupt_is_for_the_process_that_trains() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job begins without
    assert list(computed_ahead(interrupt_handler, range(2), 1)) == [True, True]
    results = computed_ahead(slow_if_even, range(50), 1)
    next(results)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    results.close()
    assert multiprocessing.active_children() == []
