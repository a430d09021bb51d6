"""The cells in numbers that tables and figures share: arms of one cell taken apart, curves, and values at equal KL."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import mean
from typing import Any

from benchmarks.reward_studies.summary import ByArm, Interval, interval, values

SMOOTHED = 5
"""Iterations of 128 responses that a logged curve is averaged over."""

Cell = Mapping[str, Any]
Point = Mapping[str, float]


def expanded(cells: Iterable[Cell]) -> list[Cell]:
    """The cells, those with several `points` (best of n) as a cell each with its share of the CPU seconds."""
    single: list[Cell] = []
    for cell in cells:
        if "points" in cell["result"]:
            points = cell["result"]["points"]
            seconds = round(cell["cpu_seconds"] / len(points), 2)
            single += [
                {**cell, "arm": arm, "cpu_seconds": seconds, "result": point} for arm, point in points.items()
            ]
        else:
            single.append(cell)
    return single


def with_start(curve: Sequence[Point], start: Point) -> list[Point]:
    """A run's curve from where all runs begin: the SFT policy, at no KL."""
    return [{**start, "iteration": 0, "kl": 0.0}, *curve]


def at_kl(curve: Sequence[Point], kl: float, name: str) -> float | None:
    """A curve's value where it first reaches a KL, linear in √KL between measurements; None where it never does.

    Args:
        curve: measurements in their order, from the start.
        kl: nats a response.
        name: what to read.

    Example:
        >>> at_kl([{"kl": 0.0, "score": 0.0}, {"kl": 4.0, "score": 1.0}], 1.0, "score")
        0.5
    """
    for one, other in pairwise(curve):
        low, high = (math.sqrt(max(point["kl"], 0.0)) for point in (one, other))
        if low <= math.sqrt(kl) <= high and low < high:
            share = (math.sqrt(kl) - low) / (high - low)
            return one[name] + share * (other[name] - one[name])
    return None


def smoothed(logged: Sequence[Point], width: int = SMOOTHED) -> list[Point]:
    """Means of so many iterations in a row of what a trainer logged, in their order."""
    return [
        {name: mean(point[name] for point in logged[start : start + width]) for name in ("kl", "score")}
        for start in range(len(logged) - width + 1)
    ]


def compared_at_kl(by_arm: ByArm, one: str, other: str, kl: float) -> tuple[float, float, Interval] | None:
    """Both arms' mean scores where their rollouts first reach a KL, and the difference, paired by seed.

    A seed counts whose two runs reach it, and begin below it.
    """
    pairs = []
    for seed, result in sorted(by_arm.get(one, {}).items()):
        if against := by_arm.get(other, {}).get(seed):
            ours, theirs = (at_kl(smoothed(run["logged"]), kl, "score") for run in (result, against))
            if ours is not None and theirs is not None:
                pairs.append((ours, theirs))
    if not pairs:
        return None
    return mean(a for a, _ in pairs), mean(b for _, b in pairs), interval([a - b for a, b in pairs])


def spread(by_arm: ByArm, arm: str, metric: str, digits: int = 2) -> str:
    """The mean over seeds, with the least and largest where there are several; empty where there is none."""
    found = list(values(by_arm, arm, metric).values())
    if not found:
        return ""
    text = f"{mean(found):.{digits}f}"
    return text if len(found) == 1 else f"{text} ({min(found):.{digits}f} to {max(found):.{digits}f})"


def grammar_kept(by_arm: ByArm, arm: str) -> dict[int, float]:
    """By seed, the grammar of an arm's responses minus that of the SFT policy's."""
    after, before = values(by_arm, arm, "grammar"), values(by_arm, "sft", "grammar")
    return {seed: after[seed] - before[seed] for seed in after if seed in before}
