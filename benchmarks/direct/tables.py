"""The tables of the contest, and how tables are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.direct.contest import CONDITIONS, PAIR_WORLDS
from benchmarks.direct.recipes import RECIPES, chosen
from benchmarks.direct.summary import (
    arms_of,
    in_words,
    mean_of,
    over_frontier,
    seconds_of,
)
from benchmarks.reward_studies.summary import ByArm, difference, values

Cell = Mapping[str, Any]


def deciding(cells: Sequence[Cell], costs: Mapping[str, Any]) -> list[str]:
    """The one table: each method's difference to DPO, wherever it was run."""
    columns = [
        ("gold, clean", "demo", "clean", "gold"),
        ("gold, 25 % flips", "demo", "flips", "gold"),
        *((f"{world} acc.", world, "clean", "accuracy") for world in PAIR_WORLDS[1:]),
        *((f"{world} acc., flips", world, "flips", "accuracy") for world in PAIR_WORLDS[1:]),
    ]
    tables = [arms_of(cells, "contest", world, condition) for _, world, condition, _ in columns]
    families, starts = arms_of(cells, "online", "demo", "clean"), start_golds(cells)
    rows = []
    for method, recipe in RECIPES.items():
        row = [recipe.title, f"{1000 * seconds_of(method, costs['demo']):.0f}"]
        for by_arm, (_, _, _, metric) in zip(tables, columns, strict=True):
            gap = difference(by_arm, method, "sigmoid", metric)
            itself = in_words(mean_of(by_arm, method, metric)) + " (itself)"
            row.append(itself if method == "sigmoid" else in_words(gap, signed=True, bold=True))
        row.insert(3, in_words(over_frontier(tables[0], method, families, starts), signed=True, bold=True))
        rows.append(row)
    names = [name for name, *_ in columns]
    names.insert(1, "at its own KL")
    intro = (
        "Each method minus DPO at equal seconds (in DPO's own row its mean). ms: an update, of PPO an iteration. "
        "At its own KL: its gold, clean, minus that of DPO runs (β from 0.03 to 1, joined) where they are as far from "
        "the start; empty where none went so far."
    )
    return ["## Which method", "", intro, "", *markdown(["method", "ms", *names], rows)]


def demo(cells: Sequence[Cell]) -> list[str]:
    """Everything measured of the contest in the demo world."""
    lines = ["## Demo world", ""]
    for condition, meaning in CONDITIONS.items():
        by_arm = arms_of(cells, "contest", "demo", condition)
        start = arms_of(cells, "contest", "demo", "clean")
        rows = [["start", "", *measures(start, "start")]] if condition == "clean" else []
        rows += [
            [RECIPES[method].title, settings(method), *measures(by_arm, method)]
            for method in RECIPES
            if method in by_arm
        ]
        lines += [f"{meaning}:", "", *markdown(["method", "settings", *MEASURES.values()], rows)]
    return lines


MEASURES = {
    "gold": "gold",
    "grammar": "grammar",
    "kl": "KL",
    "length": "tokens",
    "accuracy": "accuracy",
    "updates": "updates",
    "n": "n",
}


def titles(without: Sequence[str] = ()) -> list[str]:
    """Of what `measures` gives."""
    return [title for name, title in MEASURES.items() if name not in without]


def measures(by_arm: ByArm, arm: str, without: Sequence[str] = ()) -> list[str]:
    """The means of an arm; gold and accuracy with their intervals."""
    texts = []
    for metric in MEASURES:
        if metric in without:
            continue
        found = mean_of(by_arm, arm, metric)
        if metric == "n":
            texts.append(str(len(by_arm.get(arm, {}))))
        elif metric in ("gold", "accuracy", "kl"):
            texts.append(in_words(found))
        else:
            texts.append("" if found is None else f"{found.mean:.{0 if metric == 'updates' else 2}f}")
    return texts


def settings(method: str) -> str:
    """What was chosen for a method, in short."""
    return ", ".join(f"{name} {value:g}" for name, value in RECIPES[method].tries[chosen(method)].items())


def real(cells: Sequence[Cell]) -> list[str]:
    """Everything measured of the contest on real pairs."""
    lines = ["## Real text", ""]
    skipped = ("gold", "grammar")
    for world in PAIR_WORLDS[1:]:
        for condition, meaning in CONDITIONS.items():
            by_arm = arms_of(cells, "contest", world, condition)
            rows = [
                [RECIPES[method].title, *measures(by_arm, method, skipped)]
                for method in RECIPES
                if method in by_arm
            ]
            if rows:
                lines += [f"`{world}`, {meaning}:", "", *markdown(["method", *titles(skipped)], rows)]
    return [
        *lines,
        "KTO cannot be run on `pairs_blimp`: all its rows have one prompt, and it needs others'.",
        "",
    ]


def start_golds(cells: Sequence[Cell]) -> dict[int, float]:
    """Gold of each seed's start."""
    return values(arms_of(cells, "contest", "demo", "clean"), "start", "gold")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return [*("| " + " | ".join(line) + " |" for line in lines), ""]
