"""Bootstrap intervals of a mean, resampled by prompt where prompts are many enough, else by row."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

FEWEST_PROMPTS = 20
"""Under so many prompts a bootstrap over them says little, and rows are resampled instead."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float
    unit: str
    """What was resampled: ``prompt`` or ``row``."""
    count: int
    """How many of them there were."""

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: Sequence[float], prompts: Sequence[Hashable], seed: int = 0) -> Interval:
    """The mean of `values` and its percentile interval (Efron 1979).

    Args:
        values: one number a row.
        prompts: the prompt of each row; all rows of a prompt are drawn together.
        seed: of the resampling.

    Raises:
        ValueError: there is no row, or the two differ in length.

    Example:
        >>> interval = bootstrap([1.0, 1.0, 1.0], ["a", "b", "c"])
        >>> str(interval), interval.unit
        ('1.000 [1.000, 1.000]', 'row')
    """
    if not values or len(values) != len(prompts):
        raise ValueError(
            f"expected a prompt for each of one or more rows, found {len(values)} and {len(prompts)}"
        )
    groups: dict[Hashable, list[float]] = {}
    for value, prompt in zip(values, prompts, strict=True):
        groups.setdefault(prompt, []).append(value)
    unit = "prompt"
    if len(groups) < FEWEST_PROMPTS:
        unit, groups = "row", {place: [value] for place, value in enumerate(values)}
    sums = [(sum(group), len(group)) for group in groups.values()]
    draw = random.Random(seed)
    means = []
    for _ in range(RESAMPLES):
        drawn = draw.choices(sums, k=len(sums))
        means.append(sum(total for total, _ in drawn) / sum(count for _, count in drawn))
    means.sort()
    low, high = means[round(0.025 * RESAMPLES)], means[round(0.975 * RESAMPLES) - 1]
    return Interval(sum(values) / len(values), low, high, unit, len(sums))
