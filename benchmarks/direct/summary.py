"""The cells in numbers: means over seeds with intervals, differences paired by seed, gold at equal KL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from benchmarks.direct.costs import Costs
from benchmarks.direct.fits import kind_of
from benchmarks.direct.recipes import RECIPES
from benchmarks.loop_rows import gold_at
from benchmarks.reward_studies.summary import ByArm, Interval, difference, group, interval, values

Cell = Mapping[str, Any]
FEWEST = 3
"""Seeds from which on an interval is shown."""
DISTANCES = (0.25, 0.5, 1.0, 2.0)
"""Nats at which online and offline are compared."""


def arms_of(cells: Iterable[Cell], study: str, world: str, condition: str) -> ByArm:
    """The results of one study in one world under one condition, by arm and seed."""
    return group(cells, study).get((world, condition), {})


def mean_of(by_arm: ByArm, arm: str, metric: str) -> Interval | None:
    """An arm's mean over seeds with its interval; None where no seed has it."""
    found = list(values(by_arm, arm, metric).values())
    return interval(found) if found else None


def frontier(by_arm: ByArm, family: str, seed: int, start: float) -> list[tuple[float, float]]:
    """KL and gold of a family's runs of one seed, in the order of the KL, from the start at 0 on.

    Args:
        by_arm: arms ``FAMILY-BETA``.
        family: name in front of the β.
        seed: whose.
        start: gold of the policy that all began with.
    """
    runs = [
        results[seed]
        for arm, results in by_arm.items()
        if arm.rsplit("-", 1)[0] == family and seed in results
    ]
    return [(0.0, start), *sorted((max(run["kl"], 0.0), run["gold"]) for run in runs)]


def at_equal_kl(
    by_arm: ByArm, one: str, other: str, starts: Mapping[int, float], kl: float
) -> tuple[Interval, Interval, Interval] | None:
    """Gold of two families where both are so far from the start, and the difference, paired by seed.

    A seed counts where both families reach the distance, linear in √KL between their runs.

    Args:
        by_arm: arms ``FAMILY-BETA``.
        one: a family.
        other: the one that it is compared with.
        starts: gold of each seed's start.
        kl: nats a response.
    """
    pairs = []
    for seed, start in sorted(starts.items()):
        ours, theirs = (gold_at(kl, frontier(by_arm, family, seed, start)) for family in (one, other))
        if ours is not None and theirs is not None:
            pairs.append((ours, theirs))
    if not pairs:
        return None
    return (
        interval([ours for ours, _ in pairs]),
        interval([theirs for _, theirs in pairs]),
        interval([ours - theirs for ours, theirs in pairs]),
    )


def over_frontier(
    contest: ByArm, method: str, families: ByArm, starts: Mapping[int, float]
) -> Interval | None:
    """A method's gold minus that of offline DPO where it is as far from the start, paired by seed.

    Seeds on which no run of offline DPO went so far are left out; None where that is all.

    Args:
        contest: arms by method.
        method: whose.
        families: arms ``offline-BETA``.
        starts: gold of each seed's start.
    """
    gaps = []
    for seed, run in sorted(contest.get(method, {}).items()):
        if seed in starts:
            theirs = gold_at(max(run["kl"], 0.0), frontier(families, "offline", seed, starts[seed]))
            if theirs is not None:
                gaps.append(run["gold"] - theirs)
    return interval(gaps) if gaps else None


def over_way(by_arm: ByArm, method: str, other: str, starts: Mapping[int, float]) -> Interval | None:
    """A method's gold minus that of another on its way, where it was as far from the start, paired by seed.

    Args:
        by_arm: arms by method, with their curves.
        method: whose end.
        other: whose way, its end included.
        starts: gold of each seed's start.
    """
    gaps = []
    for seed, run in sorted(by_arm.get(method, {}).items()):
        if seed in starts and seed in by_arm.get(other, {}):
            walked = by_arm[other][seed]
            points = sorted((max(point["kl"], 0.0), point["gold"]) for point in [*walked["curve"], walked])
            theirs = gold_at(max(run["kl"], 0.0), [(0.0, starts[seed]), *points])
            if theirs is not None:
                gaps.append(run["gold"] - theirs)
    return interval(gaps) if gaps else None


def seconds_to(gain: float, points: Sequence[tuple[float, float]]) -> float | None:
    """When a run first gained so much, linear between its points; None where it never did.

    Args:
        gain: over the first point.
        points: seconds and gold, in their order.

    Example:
        >>> seconds_to(0.5, [(2.0, -1.0), (4.0, 0.0)])
        3.0
    """
    aim = points[0][1] + gain
    for (begun, before), (ended, after) in pairwise(points):
        if before < aim <= after:
            return begun + (aim - before) / (after - before) * (ended - begun)
    return None


def seconds_of(method: str, costs: Costs) -> float:
    """CPU seconds of an update of a method (of PPO's an iteration), by what is computed for it."""
    if method in RECIPES:
        method = "ppo" if method == "ppo" else kind_of(RECIPES[method].options["loss"])
    return costs[method] * costs["seconds"]


def in_words(found: Interval | None, digits: int = 2, signed: bool = False, bold: bool = False) -> str:
    """A mean and its interval; without the interval where there are too few seeds, empty where there is nothing.

    Example:
        >>> in_words(Interval(0.5, 0.25, 0.75, 5), signed=True, bold=True)
        '**+0.50 [+0.25, +0.75]**'
        >>> in_words(Interval(0.5, -9.0, 9.0, 2))
        '0.50'
    """
    if found is None:
        return ""
    sign = "+" if signed else ""
    text = f"{found.mean:{sign}.{digits}f}"
    if found.seeds >= FEWEST:
        text += f" [{found.low:{sign}.{digits}f}, {found.high:{sign}.{digits}f}]"
        if bold and found.sign:
            return f"**{text}**"
    return text


def as_numbers(found: Interval | None) -> dict[str, float | int] | None:
    """For JSON; the ends are left out where there are too few seeds."""
    if found is None:
        return None
    ends = {"low": round(found.low, 4), "high": round(found.high, 4)} if found.seeds >= FEWEST else {}
    return {"mean": round(found.mean, 4), **ends, "seeds": found.seeds}


def against(by_arm: ByArm, arms: Sequence[str], baseline: str, metric: str) -> dict[str, Interval | None]:
    """Each arm minus the baseline, paired by seed."""
    return {arm: difference(by_arm, arm, baseline, metric) for arm in arms if arm != baseline}
