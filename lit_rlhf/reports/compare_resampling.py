"""Intervals of a number that has been measured for several seeds on the same prompts.

Seeds and prompts are crossed: every seed of a method answers the same prompts. A resample therefore draws prompts with
replacement once, for all seeds, and takes the mean of all seeds there; to it comes how far a draw of seeds with
replacement lies from their mean. Were prompts drawn anew for every seed, their luck would average away, and the
interval would be too narrow.

A handful of seeds, resampled, spread too little: their part is widened as far as a t interval is wider than a normal
one with standard deviations over S instead of S − 1.

Sources:
    Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), 386-411: rows and columns are resampled
    apart from each other. Here their two parts are added, which counts what is neither's alone twice, not three times.
    Hesterberg 2015, "What teachers should know about the bootstrap", The American Statistician 69, 371-386: percentile
    intervals of small samples cover too little. To widen the seeds' part alone is ours.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from lit_rlhf.metrics.intervals import FEWEST_PROMPTS, RESAMPLES
from lit_rlhf.metrics.resampling import percentile_interval

_NORMAL = 1.959964
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093,
)  # fmt: skip
"""97.5 % points of Student's t for 1, 2, … degrees of freedom; behind the last one it stands for all."""
_CELLS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, with its 95 % interval where there is something to resample."""

    mean: float
    low: float | None
    high: float | None
    seeds: int
    """How many seeds it is a mean over."""
    prompts: int
    """How many different prompts it rests on; 0 for a number of a whole run, such as its seconds."""
    by_row: bool
    """Whether rows were resampled, because prompts are too few."""
    left_out: int
    """Numbers that are missing, and in no mean."""

    @property
    def has_interval(self) -> bool:
        """Whether there was more than one seed or prompt to resample."""
        return self.low is not None

    def within(self, least: float, most: float) -> Estimate:
        """The same, its interval cut at what is possible: that of few seeds can reach beyond."""
        if self.low is None or self.high is None:
            return self
        return replace(self, low=max(self.low, least), high=min(self.high, most))


@dataclass(frozen=True)
class Measured:
    """One quantity of one method, by seed and by what it was measured on."""

    seeds: tuple[int, ...]
    values: np.ndarray
    """Float64 ``[S, N]``, NaN where a number is missing."""
    prompts: tuple[Hashable, ...] | None
    """The prompt of each of the N; None for a number of a whole run (N = 1)."""


class Draws:
    """How often each seed and each prompt is in every resample: the same ones for all methods and quantities.

    Args:
        seed: of the drawing.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._drawn: dict[tuple[str, int], np.ndarray] = {}

    def times(self, what: Literal["seeds", "units"], count: int) -> np.ndarray:
        """Shape ``[RESAMPLES, count]``; each row sums to `count`."""
        key = (what, count)
        if key not in self._drawn:
            generator = np.random.default_rng([self._seed, what == "seeds", count])
            parts = []
            at_once = max(1, _CELLS_AT_ONCE // count)
            for start in range(0, RESAMPLES, at_once):
                rows = min(at_once, RESAMPLES - start)
                drawn = generator.integers(count, size=(rows, count)) + np.arange(rows)[:, None] * count
                found = np.bincount(drawn.ravel(), minlength=rows * count)
                parts.append(found.reshape(rows, count).astype(np.uint16))
            self._drawn[key] = np.concatenate(parts)
        return self._drawn[key]


def estimate(measured: Measured, draws: Draws) -> Estimate | None:
    """The mean over the seeds' means, with its interval; None where every number is missing.

    Args:
        measured: at least one seed.
        draws: shared by what is compared.
    """
    known = np.isfinite(measured.values)
    left_out, known_seeds = int((~known).sum()), known.any(axis=1)
    known, values = known[known_seeds], measured.values[known_seeds]
    if not len(values):
        return None
    units, prompts, by_row = _units(measured.prompts)
    sums = _by_unit(np.where(known, values, 0.0), units)
    counts = _by_unit(known.astype(float), units)
    mean = float((sums.sum(axis=1) / counts.sum(axis=1)).mean())
    low = high = None
    if len(values) > 1 or sums.shape[1] > 1:
        found = percentile_interval(torch.from_numpy(_resampled(sums, counts, draws)))
        if found is not None:
            low, high = found
    return Estimate(mean, low, high, len(values), prompts, by_row, left_out)


def widening(seeds: int) -> float:
    """By how much the part of the seeds is widened: t over z, times √(S / (S − 1)).

    Args:
        seeds: S > 1.
    """
    student = _STUDENT[min(seeds - 1, len(_STUDENT)) - 1]
    return student / _NORMAL * math.sqrt(seeds / (seeds - 1))


def _units(prompts: Sequence[Hashable] | None) -> tuple[np.ndarray, int, bool]:
    """To which unit each number belongs, how many prompts there are, and whether units are rows."""
    if prompts is None:
        return np.zeros(1, dtype=np.int64), 0, False
    number: dict[Hashable, int] = {}
    of_prompt = np.array([number.setdefault(prompt, len(number)) for prompt in prompts])
    by_row = len(number) < FEWEST_PROMPTS
    return (np.arange(len(prompts)) if by_row else of_prompt), len(number), by_row


def _by_unit(values: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Sums of each seed over each unit, ``[S, U]``."""
    return np.stack([np.bincount(units, weights=row) for row in values])


def _resampled(sums: np.ndarray, counts: np.ndarray, draws: Draws) -> np.ndarray:
    """Means of resamples, ``[RESAMPLES]``."""
    seeds, units = sums.shape
    drawn_units = draws.times("units", units)
    means = []
    for part in np.array_split(drawn_units, 1 + drawn_units.size // _CELLS_AT_ONCE):
        times = part.astype(float)
        with np.errstate(invalid="ignore"):  # a seed none of whose known numbers were drawn has no mean
            means.append((times @ sums.T) / (times @ counts.T))
    of_seeds = np.concatenate(means)
    whole = of_seeds.mean(axis=1)
    if seeds == 1:
        return whole
    apart = sums.sum(axis=1) / counts.sum(axis=1)
    apart -= apart.mean()
    return whole + widening(seeds) * (draws.times("seeds", seeds) @ apart) / seeds
