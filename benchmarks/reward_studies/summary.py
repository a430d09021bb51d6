"""Cells in numbers: means over seeds, and differences to the baseline arm, paired by seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantiles of Student's t with 1, 2, 3, ... degrees of freedom."""

Cell = Mapping[str, Any]
ByArm = dict[str, dict[int, dict[str, Any]]]
"""A cell's result by arm and seed."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95 % interval by Student's t."""

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval is on that side of 0, else 0."""
        return (self.low > 0) - (self.high < 0)


def interval(values: Sequence[float]) -> Interval:
    """Mean and interval of one value a seed; of a single seed the interval is not known.

    Example:
        >>> str(interval([1.0, 2.0, 3.0]))  # 2 ± 4.303 / √3
        '+2.000 [-0.484, +4.484]'
    """
    if len(values) < 2:
        return Interval(mean(values), -math.inf, math.inf, len(values))
    half = STUDENT[min(len(values), len(STUDENT) + 1) - 2] * stdev(values) / math.sqrt(len(values))
    return Interval(mean(values), mean(values) - half, mean(values) + half, len(values))


def group(cells: Iterable[Cell], study: str) -> dict[tuple[str, str], ByArm]:
    """The results of a study by world and condition."""
    grouped: dict[tuple[str, str], ByArm] = {}
    for cell in cells:
        if cell["study"] == study:
            by_arm = grouped.setdefault((cell["world"], cell["condition"]), {})
            by_arm.setdefault(cell["arm"], {})[cell["seed"]] = cell["result"]
    return grouped


def values(by_arm: ByArm, arm: str, metric: str) -> dict[int, float]:
    """An arm's values of a metric by seed; those that lack it are left out."""
    results = by_arm.get(arm, {})
    return {seed: result[metric] for seed, result in sorted(results.items()) if metric in result}


def difference(by_arm: ByArm, arm: str, baseline: str, metric: str) -> Interval | None:
    """The arm minus the baseline on the seeds that both have; None where they share none."""
    one, other = values(by_arm, arm, metric), values(by_arm, baseline, metric)
    shared = [one[seed] - other[seed] for seed in one if seed in other]
    return interval(shared) if shared else None


def mean_curve(by_arm: ByArm, arm: str, metric: str) -> list[tuple[float, float]]:
    """Means over seeds of ``(passes, value)``, point by point, of the seeds whose curves are as long as the first's."""
    curves = [result["curve"] for result in by_arm.get(arm, {}).values() if "curve" in result]
    curves = [curve for curve in curves if len(curve) == len(curves[0]) and metric in curve[0]]
    return [
        (mean(point["passes"] for point in points), mean(point[metric] for point in points))
        for points in zip(*curves)
    ]
