"""Processes that compute ahead, in order, and end with the loop that takes what they computed."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

Task = TypeVar("Task")
Result = TypeVar("Result")


def computed_ahead(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int
) -> Generator[Result, None, None]:
    """``function(task)`` of each task, in the order of the tasks, however many processes compute them.

    What goes wrong in a process is raised here, with its traceback as a note; a killed process is a RuntimeError.

    Args:
        function: Where processes are spawned and not forked (macOS, Windows) it has to be one that can be pickled.
        tasks: Taken no further ahead than two a process.
        workers: Processes; 0 = each is computed here when it is asked for.
    """
    if not workers:
        yield from map(function, tasks)
        return
    loader = DataLoader(
        _Computed(function),
        batch_size=None,
        sampler=tasks,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_begin,
        # Else it would draw from the stream that dropout draws from, and workers would change what is learnt.
        generator=torch.Generator(),
    )
    for result in loader:
        if isinstance(result, _Problem):
            raise result.error
        yield result


class _Problem:
    """What went wrong with a task, on its way from one process to another."""

    def __init__(self, error: Exception) -> None:
        note = f"in a worker process:\n{traceback.format_exc()}"
        try:  # some exceptions cannot be sent, and the queue would lose them
            self.error: Exception = pickle.loads(pickle.dumps(error))
        except Exception:
            self.error = RuntimeError(f"{type(error).__name__}: {error}")
        self.error.add_note(note)


class _Computed(Dataset[Any]):
    """What a data loader asks for by task."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __getitem__(self, task: Any) -> Any:
        try:
            return self.function(task)
        except Exception as error:
            return _Problem(error)


def _as_it_is(value: Any) -> Any:
    return value


def _begin(worker: int) -> None:
    gc.freeze()  # what was there before the fork stays shared only as long as nobody goes through it
    # A tokenizer's threads do not survive a fork, and it would wait for them.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Ctrl-C goes to the whole group of processes: the one that trains decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
