"""The tables of the page beside the contest: more time, online, rankings, votes, and what everything costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from benchmarks.direct import longer, online, rankings, votes
from benchmarks.direct.summary import (
    DISTANCES,
    against,
    arms_of,
    as_numbers,
    at_equal_kl,
    in_words,
    mean_of,
    over_way,
    seconds_to,
)
from benchmarks.direct.tables import MEASURES, Cell, markdown, measures, start_golds, titles
from benchmarks.direct.worlds import WORLDS
from benchmarks.reward_studies.summary import ByArm, difference, values

GAIN = 0.5
"""Gold above the start, of which it is said how long it took."""


def more_time(cells: Sequence[Cell], costs: Mapping[str, Any]) -> list[str]:
    """With several budgets: what draws samples and what does not, against PPO."""
    by_arm, starts = arms_of(cells, "longer", "demo", "clean"), start_golds(cells)
    rows = []
    for arm, meaning in longer.ARMS.items():
        if arm in by_arm:
            found_gap = None if arm == longer.BASELINE else difference(by_arm, arm, longer.BASELINE, "gold")
            gap = in_words(found_gap, 2, signed=True, bold=True)
            runs = [(result, starts[seed]) for seed, result in by_arm[arm].items() if seed in starts]
            ways = [longer.way(result, arm, start, costs["demo"]) for result, start in runs]
            taken = [found for way in ways if (found := seconds_to(GAIN, way)) is not None]
            soon = f"{mean(taken):.1f} ({len(taken)})" if taken else "(0)"
            way = None if arm.startswith("sigmoid") else over_way(by_arm, arm, longer.WAY, starts)
            apart = f"{in_words(way, 2, signed=True, bold=True)} ({way.seeds})" if way else ""
            rows.append([meaning, *measures(by_arm, arm), gap, apart, soon])
    budget = longer.TIMES * WORLDS["demo"].budget
    seconds = budget * costs["demo"]["seconds"]
    intro = (
        f"{longer.TIMES} times the budget ({budget} updates of DPO, {seconds:.0f} CPU seconds here) in the demo world, "
        "clean labels; reward models in it. Settings were not searched here. At the same KL: minus "
        "what DPO, β = 0.3, had on its way where it was as far from the start, in brackets on how many seeds it was. "
        "Last column: CPU seconds until the gold "
        f"is {GAIN:g} above the start, and how many runs came there, linear between measurements; rates fall to the "
        "end of the whole budget."
    )
    header = ["method", *MEASURES.values(), "minus PPO", "minus DPO at the same KL", f"s to +{GAIN:g}"]
    return ["## More time", "", intro, "", *markdown(header, rows)]


def distances(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Online against offline at equal KL, for JSON."""
    by_arm, rows = arms_of(cells, "online", "demo", "clean"), []
    for kl in DISTANCES:
        if found := at_equal_kl(by_arm, "online", "offline", start_golds(cells), kl):
            names = ("online", "offline", "difference")
            rows.append({"kl": kl, **{name: as_numbers(gap) for name, gap in zip(names, found, strict=True)}})
    return rows


def distance(cells: Sequence[Cell]) -> list[str]:
    """Online against offline at equal KL."""
    by_arm, rows = arms_of(cells, "online", "demo", "clean"), []
    for kl in DISTANCES:
        if found := at_equal_kl(by_arm, "online", "offline", start_golds(cells), kl):
            ours, theirs, gap = found
            rows.append(
                [f"{kl:g}", in_words(ours), in_words(theirs), in_words(gap, 2, True, True), str(gap.seeds)]
            )
    lines = ["## Online against offline at equal KL", "", online_intro(by_arm), ""]
    lines += markdown(["KL", "gold, online", "gold, offline", "difference", "n"], rows)
    runs = [
        [f"{online.FAMILIES[family]}, β = {beta:g}", *measures(by_arm, f"{family}-{beta:g}")]
        for family in online.FAMILIES
        for beta in online.BETAS
        if f"{family}-{beta:g}" in by_arm
    ]
    return lines + markdown(["run", *MEASURES.values()], runs)


def online_intro(by_arm: ByArm) -> str:
    """How it was compared, and how many labels each was given."""
    labels = {
        family: mean(value for arm in by_arm if arm.startswith(f"{family}-") for value in found.values())
        for family in online.FAMILIES
        if any(found := values(by_arm, arm, "labels") for arm in by_arm if arm.startswith(f"{family}-"))
    }
    said = ", ".join(f"{family} {count:,.0f}" for family, count in labels.items())
    return (
        "Demo world, one budget each. Gold where both families are so far from the start, each seed's runs at "
        f"β = {', '.join(f'{beta:g}' for beta in online.BETAS)} joined linearly in √KL. Online pairs are labelled by "
        f"the gold reward with the noise of the given labels. Labels used: {said}."
    )


def ranked(cells: Sequence[Cell]) -> list[str]:
    """Rankings against their pairs."""
    by_arm, skipped = arms_of(cells, rankings.NAME, rankings.WORLD, "clean"), ("gold", "grammar", "accuracy")
    gaps = against(by_arm, list(rankings.ARMS), rankings.BASELINE, "accuracy")
    rows = []
    for arm, meaning in rankings.ARMS.items():
        if arm in by_arm:
            row = [meaning, *(in_words(mean_of(by_arm, arm, metric), 3) for metric in ("accuracy", "tau"))]
            gap = in_words(gaps.get(arm), 3, signed=True, bold=True)
            rows.append([*row, gap, *measures(by_arm, arm, skipped)])
    intro = (
        f"`{rankings.WORLD}`: as many updates with as many responses in each; DPO's β. Accuracy on all pairs that a "
        "held-out ranking tells apart."
    )
    header = ["", "accuracy", "Kendall's τ", "accuracy minus the first", *titles(skipped)]
    return ["## Rankings against their pairs", "", intro, "", *markdown(header, rows)]


def voted(cells: Sequence[Cell]) -> list[str]:
    """Votes."""
    lines = [
        "## Votes",
        "",
        f"`{votes.WORLD}`: five votes a pair; accuracy and log-loss on held-out votes.",
        "",
    ]
    for condition, meaning in votes.CONDITIONS.items():
        by_arm = arms_of(cells, votes.NAME, votes.WORLD, condition)
        rows = []
        for arm, (title, _, _) in votes.ARMS.items():
            if arm in by_arm:
                row = [title]
                for metric in ("accuracy", "log_loss"):
                    gap = None if arm == votes.BASELINE else difference(by_arm, arm, votes.BASELINE, metric)
                    row += [
                        in_words(mean_of(by_arm, arm, metric), 3),
                        in_words(gap, 3, signed=True, bold=True),
                    ]
                rows.append([*row, in_words(mean_of(by_arm, arm, "kl"), 1), str(len(by_arm[arm]))])
        if rows:
            header = [meaning, "accuracy", "minus the majority", "log-loss", "minus the majority", "KL", "n"]
            lines += markdown(header, rows)
    return lines


PAID = {
    "reference": "loss with a reference (frozen copy)",
    "no_reference": "loss without a reference",
    "kto": "KTO",
    "reward": "reward model",
    "ppo": "PPO, an iteration",
    "online": "online DPO with labels, an iteration",
    "online_reward": "online DPO with a reward model, an iteration",
    "best_of_n": "best of 8, an iteration",
    "raft": "expert iteration, best of 4, an iteration",
    "reward_weighted": "reward-weighted, 8 samples, an iteration",
}


def paid(costs: Mapping[str, Any]) -> list[str]:
    """What everything costs."""
    rows = [
        [
            meaning,
            *(
                f"{found[kind]:.2f} ({found['spread'][kind][0]:.2f} to {found['spread'][kind][1]:.2f})"
                if kind in found
                else ""
                for found in costs.values()
            ),
        ]
        for kind, meaning in PAID.items()
    ]
    said = ", ".join(f"{world} {1000 * found['seconds']:.0f} ms" for world, found in costs.items())
    intro = (
        f"In updates of DPO (least and most of the turns); one of those took {said}. An iteration draws 128 responses "
        "in the demo world (256 for the last three) and 64 on real text."
    )
    return ["## What it costs", "", intro, "", *markdown(["an update of", *costs], rows)]
