"""Three rounds of labels against one: frontiers read at a KL, differences paired by seed, rows of results."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import sqrt
from statistics import mean
from typing import Any

from benchmarks.reward_studies.summary import Interval, interval

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""By the name of a setting, such as ``dpo 0.3``, and the seed: the arms ``one`` and ``three``."""


def row_of(name: str, results: Results, labels: int, annotator: str) -> dict[str, Any]:
    """A setting as a row of results.

    Args:
        name: of the setting.
        results: of all settings; those of the same method make its frontier.
        labels: of each arm.
        annotator: in words.
    """
    by_seed = results[name]
    ours, theirs = (last_of(by_seed, arm, "gold") for arm in ("three", "one"))
    start = [arms["one"]["start"] for arms in by_seed.values()]
    gains = [a - b for a, b in zip(ours, theirs, strict=True)]
    at_kl = [
        difference for seed in by_seed if (difference := difference_at_kl(name, seed, results)) is not None
    ]
    return {
        "work": f"three rounds {name}",
        "size": f"{labels} labels, demo world",
        "against": "one round, the same labels and updates",
        "ours": round(mean(ours), 3),
        "theirs": round(mean(theirs), 3),
        "ratio": round((mean(ours) - mean(start)) / (mean(theirs) - mean(start)), 3),
        "unit": "gold; the ratio is of gains over the fine-tuned policy",
        "repeats": len(ours),
        "spread": [round(min(gains), 3), round(max(gains), 3)],
        "conditions": {
            "difference": as_numbers(interval(gains)),
            "difference_at_equal_kl": as_numbers(interval(at_kl)) if at_kl else None,
            **{
                number: {arm: round(mean(last_of(by_seed, arm, number)), 3) for arm in ("three", "one")}
                for number in ("kl", "grammar", "seconds")
            },
            "start": round(mean(start), 3),
            "annotator": annotator,
            "seeds": {str(seed): dict(arms) for seed, arms in by_seed.items()},
            "python": platform.python_version(),
        },
    }


def last_of(by_seed: Mapping[int, Mapping[str, Any]], arm: str, number: str) -> list[float]:
    """An arm's number by seed: the last round's, or that of all rounds."""
    found = [arms[arm][number] for arms in by_seed.values()]
    return [value[-1] if isinstance(value, list) else value for value in found]


def difference_at_kl(name: str, seed: int, results: Results) -> float | None:
    """Gold of three rounds minus that of one round at the same KL, on the frontier of the method's settings.

    None where three rounds went further than any run of one round.
    """
    method = name.split()[0]
    same = [
        results[other][seed]["one"]
        for other in results
        if other.split()[0] == method and seed in results[other]
    ]
    frontier = sorted((max(one["kl"][-1], 0.0), one["gold"][-1]) for one in same)
    three = results[name][seed]["three"]
    found = gold_at(max(three["kl"][-1], 0.0), [(0.0, three["start"]), *frontier])
    return None if found is None else three["gold"][-1] - found


def gold_at(kl: float, points: Sequence[tuple[float, float]]) -> float | None:
    """A frontier's gold at a KL, linear in √KL between its points; None beyond the last.

    Args:
        kl: nats a response.
        points: KL and gold, in the order of the KL, from the start at 0.

    >>> gold_at(1.0, [(0.0, 0.0), (4.0, 1.0)])
    0.5
    """
    for (low, before), (high, after) in pairwise(points):
        if low <= kl <= high and low < high:
            share = (sqrt(kl) - sqrt(low)) / (sqrt(high) - sqrt(low))
            return before + share * (after - before)
    return None


def as_numbers(found: Interval) -> dict[str, float | int]:
    """For JSON; an interval of one seed has no ends."""
    ends = {"low": round(found.low, 3), "high": round(found.high, 3)} if found.seeds > 1 else {}
    return {"mean": round(found.mean, 3), **ends, "seeds": found.seeds}


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows for the terminal."""
    from rich.console import Console

    from lit_rlhf.reports.tables import result_table

    cells = []
    for row in rows:
        said = row["conditions"]
        apart = [in_words(said["difference"]), in_words(said["difference_at_equal_kl"])]
        cells.append(
            [row["work"], row["ours"], said["kl"]["three"], row["theirs"], said["kl"]["one"], *apart]
        )
    header = ["setting", "gold, three", "KL", "gold, one", "KL", "difference", "at equal KL"]
    Console(width=130).print(result_table("Three rounds against one", header, cells))


def in_words(found: Mapping[str, Any] | None) -> str:
    """A difference with its interval, and of how many seeds."""
    if found is None:
        return "-"
    ends = f" [{found['low']:+.2f}, {found['high']:+.2f}]" if "low" in found else ""
    return f"{found['mean']:+.2f}{ends} ({found['seeds']})"
