"""Run a function on several processes as torchrun would start them, in a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.scale.launch import run_ranks

LIMIT_SECONDS = 120.0


def run_distributed(function: Callable[..., Any], world_size: int, *arguments: Any) -> list[Any]:
    """``[function(*arguments) on rank 0, on rank 1, ...]``; the first error of a rank is raised."""
    return run_ranks(function, world_size, *arguments, limit_seconds=LIMIT_SECONDS)
