"""Ranks as processes of this machine, forked, so that importing everything is paid for once."""

from __future__ import annotations

import gc
import multiprocessing
import os
import queue
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

LIMIT_SECONDS = 600.0
"""How long the ranks of one run may take."""


def run_ranks(
    function: Callable[..., Any], ranks: int, *arguments: Any, limit_seconds: float = LIMIT_SECONDS
) -> list[Any]:
    """``[function(*arguments) on rank 0, on rank 1, ...]``, each in a process that torchrun might have started.

    Args:
        function: what every rank runs; what it returns is pickled, and holds no tensors.
        ranks: how many.
        arguments: its.
        limit_seconds: how long they may take.

    Raises:
        RuntimeError: a rank failed, ended without an answer or took too long; the message has its traceback. The
            others are stopped then, which may be waiting for it.
    """
    context = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answers: Any = context.Queue()
    processes = [
        context.Process(target=_entry, args=(function, rank, ranks, port, answers, arguments))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    try:
        return _collect(answers, processes, limit_seconds)
    finally:
        for process in processes:
            process.join(timeout=10)
            process.kill()
            process.join()


def _collect(answers: Any, processes: Sequence[Any], limit_seconds: float) -> list[Any]:
    found: dict[int, Any] = {}
    behind = time.monotonic() + limit_seconds
    while len(found) < len(processes):
        dead = [
            rank for rank, each in enumerate(processes) if rank not in found and each.exitcode is not None
        ]
        try:
            # what a process that has ended put in the queue may still be on its way
            rank, went_well, value = answers.get(timeout=5 if dead else 1)
        except queue.Empty:
            if dead:
                code = processes[dead[0]].exitcode
                raise RuntimeError(f"rank {dead[0]} ended without an answer, exit code {code}") from None
            if time.monotonic() > behind:
                raise RuntimeError(f"no answer of every rank within {limit_seconds:g} s") from None
            continue
        if not went_well:
            raise RuntimeError(f"rank {rank}:\n{value}")
        found[rank] = value
    return [found[rank] for rank in range(len(processes))]


def _entry(
    function: Callable[..., Any], rank: int, ranks: int, port: int, answers: Any, arguments: Sequence[Any]
) -> None:
    gc.freeze()  # what was imported before the fork is no garbage, and to look for some in it would copy its pages
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(ranks),
        LOCAL_WORLD_SIZE=str(ranks),
        GROUP_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="scale",  # Lightning then takes the processes as started by torchrun
    )
    try:
        answers.put((rank, True, function(*arguments)))
    except BaseException:
        answers.put((rank, False, traceback.format_exc()))
