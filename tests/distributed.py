"""Run a function on several processes as torchrun would start them, in a second."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any


def run_distributed(function: Callable[..., Any], world_size: int, *arguments: Any) -> list[Any]:
    """``[function(*arguments) on rank 0, on rank 1, ...]``; the first error of a rank is raised."""
    context = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results: Any = context.Queue()
    processes = [
        context.Process(target=_entry, args=(function, rank, world_size, port, results, arguments))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    try:
        answers = dict(_answer(results.get(timeout=120)) for _ in processes)
    finally:
        for process in processes:
            process.join(timeout=10)
            process.kill()
    return [answers[rank] for rank in range(world_size)]


def _answer(message: tuple[int, bool, Any]) -> tuple[int, Any]:
    rank, went_well, value = message
    if not went_well:
        raise RuntimeError(f"rank {rank}:\n{value}")
    return rank, value


def _entry(
    function: Callable[..., Any],
    rank: int,
    world_size: int,
    port: int,
    results: Any,
    arguments: tuple[Any, ...],
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        GROUP_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="test",  # Lightning then takes the processes as started by torchrun
    )
    try:
        results.put((rank, True, function(*arguments)))
    except BaseException:
        results.put((rank, False, traceback.format_exc()))
