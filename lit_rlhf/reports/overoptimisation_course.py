"""The course of a noisy number over the iterations: where it was highest, what was lost since, and what is noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lit_rlhf.reports.overoptimisation_runs import GOLD, KL, SCORE, Run, Series

FEWEST_ITERATIONS = 5
"""Under them a fall cannot be told from noise."""
SURE = 3.0
"""Standard errors of the difference by which a fall must exceed noise. Three, since the highest of many is compared."""

Verdict = Literal["no gold", "too short", "not fallen", "over-optimised", "collapsed"]


@dataclass(frozen=True)
class Course:
    """A series in means over `window` iterations in a row."""

    window: int
    start: float
    """The first value, no mean: the policy before training."""
    peak: float
    peak_at: float
    """The middle of the iterations of the highest mean."""
    last: float
    error: float
    """Standard error of the difference of two such means; nan with fewer than three values."""

    @property
    def lost(self) -> float:
        """What was lost since the peak."""
        return self.peak - self.last

    @property
    def has_fallen(self) -> bool:
        """Whether more was lost than noise explains."""
        return self.lost > SURE * self.error


def window_of(count: int) -> int:
    """Iterations in a mean: about a tenth of all, an odd number.

    >>> [window_of(count) for count in (5, 20, 70, 200)]
    [1, 3, 7, 21]
    """
    return 2 * (count // 20) + 1


def smooth(values: Sequence[float]) -> list[float]:
    """For each value the mean over those about it, as many before as behind: :func:`window_of` all, fewer at the ends.

    The first and the last stay as they are.
    """
    half = window_of(len(values)) // 2
    reach = [min(half, place, len(values) - 1 - place) for place in range(len(values))]
    return [sum(values[i - r : i + r + 1]) / (2 * r + 1) for i, r in enumerate(reach)]


def running_means(values: Sequence[float], window: int) -> np.ndarray:
    """Means over `window` values in a row, ``[n - window + 1]``."""
    return np.convolve(np.asarray(values, dtype=float), np.full(window, 1 / window), mode="valid")


def course_of(series: Series) -> Course:
    """The course of a series that is not empty.

    The noise of a single value is taken from the differences of neighbours, σ² = mean(Δ²)/2, so that a slow rise or
    fall is not taken for noise (von Neumann et al. 1941).
    """
    window = window_of(len(series))
    means = running_means(series.values, window)
    best = int(means.argmax())
    steps = np.diff(series.values)
    noise = math.sqrt(float((steps**2).mean()) / 2) if len(steps) > 1 else math.nan
    inside = series.iterations[best : best + window]
    return Course(
        window,
        series.values[0],
        float(means[best]),
        sum(inside) / len(inside),
        float(means[-1]),
        noise * math.sqrt(2 / window),
    )


def gold_of(run: Run) -> Series:
    """The run's gold reward on rollouts, or where only validation measured it, on the validation prompts."""
    return run.get(GOLD) or run.get(GOLD, validation=True)


def judge(run: Run) -> Verdict:
    """Whether the run shows over-optimisation: gold lost beyond noise, while the score did not fall.

    Where the score has fallen too, the policy has got worse at what it is trained on, which is another illness.
    """
    gold = gold_of(run)
    if not len(gold):
        return "no gold"
    if len(gold) < FEWEST_ITERATIONS:
        return "too short"
    if not course_of(gold).has_fallen:
        return "not fallen"
    score = run.get(SCORE) or run.get(SCORE, validation=True)
    since = mean_near(score, course_of(gold).peak_at)
    course = course_of(score)
    return "collapsed" if since - course.last > SURE * course.error else "over-optimised"


def mean_near(series: Series, iteration: float) -> float:
    """The mean of the `window` values nearest to an iteration; nan for an empty series."""
    if not len(series):
        return math.nan
    by_distance = sorted(zip(series.iterations, series.values), key=lambda point: abs(point[0] - iteration))
    near = [value for _, value in by_distance[: window_of(len(series))]]
    return sum(near) / len(near)


def kl_near(run: Run, iteration: float) -> float:
    """The run's KL about an iteration, nats a response."""
    return mean_near(run.get(KL) or run.get(KL, validation=True), iteration)
