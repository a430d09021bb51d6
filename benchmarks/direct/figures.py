"""The figure: what each method gains and how far it goes for it, labels turned round, real text, and more time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.direct import longer, online
from benchmarks.direct.contest import PAIR_WORLDS
from benchmarks.direct.recipes import RECIPES
from benchmarks.direct.summary import FEWEST, arms_of, mean_of
from benchmarks.direct.worlds import WORLDS
from benchmarks.reward_studies.figures import COLOURS, _save
from benchmarks.reward_studies.summary import ByArm, difference

Cell = Mapping[str, Any]
LONG_COLOURS = (*COLOURS, "#bbbb00", "#ff69b4", "#7fb800")
"""Of the panel over time."""
FURTHEST, LOWEST = 1.8, -0.5
"""Difference of gold, and gold, that the panels reach."""
SMALL = 8
"""Points of a label."""


def draw(path: Path, cells: Sequence[Cell], costs: Mapping[str, Any]) -> None:
    """Write the figure."""
    figure = Figure(figsize=(15.5, 11.0), layout="constrained")
    (demo, text), (reach, time) = figure.subplots(2, 2)
    clean, flips = (arms_of(cells, "contest", "demo", condition) for condition in ("clean", "flips"))
    draw_differences(demo, {"clean": clean, "25 % flipped labels": flips}, "gold")
    demo.set_xlim(-FURTHEST, FURTHEST)  # what has lost the language is beyond, and would squeeze all others
    demo.set_title("demo world: gold minus that of DPO, equal seconds (apo_down is beyond)", fontsize=10)
    worlds = {
        f"{world}{', flips' if condition == 'flips' else ''}": arms_of(cells, "contest", world, condition)
        for world in PAIR_WORLDS[1:]
        for condition in ("clean", "flips")
    }
    draw_differences(text, worlds, "accuracy")
    text.set_title("real text: held-out accuracy minus that of DPO", fontsize=10)
    draw_reach(reach, clean, arms_of(cells, "online", "demo", "clean"))
    draw_time(time, arms_of(cells, "longer", "demo", "clean"), clean, costs)
    _own_legend(reach)
    _own_legend(time, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _legend_of(demo, text)
    _save(figure, path)


def draw_differences(panel: Axes, tables: Mapping[str, ByArm], metric: str) -> None:
    """Each method minus DPO with its interval, a colour for each table."""
    tables = {name: by_arm for name, by_arm in tables.items() if by_arm}
    methods = [m for m in RECIPES if m != "sigmoid" and any(m in by_arm for by_arm in tables.values())]
    panel.axvline(0, color="#999999", linewidth=1)
    for number, (name, by_arm) in enumerate(tables.items()):
        for place, method in enumerate(methods):
            gap = difference(by_arm, method, "sigmoid", metric)
            if gap is None:
                continue
            height = place + 0.18 * (number - (len(tables) - 1) / 2)
            if gap.seeds >= FEWEST:
                panel.plot([gap.low, gap.high], [height, height], color=COLOURS[number], linewidth=1.4)
            panel.plot([gap.mean], [height], "o", color=COLOURS[number], markersize=4)
        panel.plot([], [], "o-", color=COLOURS[number], label=name, markersize=4)
    panel.set_yticks(range(len(methods)), [RECIPES[method].title for method in methods], fontsize=SMALL)
    panel.set_ylim(max(1, len(methods)) - 0.5, -0.5)
    panel.grid(alpha=0.3, axis="x")


def draw_reach(panel: Axes, clean: ByArm, families: ByArm) -> None:
    """Gold against √KL, a point for each method, and the frontiers of offline and online DPO."""
    for place, method in enumerate(method for method in RECIPES if method in clean):
        across, up = (mean_of(clean, method, metric) for metric in ("kl", "gold"))
        if across is not None and up is not None:
            x = math.sqrt(max(across.mean, 0.0))
            panel.plot([x], [up.mean], "o", color=COLOURS[place % len(COLOURS)], markersize=4)
            panel.annotate(method, (x, up.mean), fontsize=7, xytext=(3, 2), textcoords="offset points")
    for colour, style, family in zip(("#111111", "#d1495b"), (":s", "-s"), online.FAMILIES, strict=True):
        points = []
        for beta in online.BETAS:
            kl, gold = (mean_of(families, f"{family}-{beta:g}", metric) for metric in ("kl", "gold"))
            if kl is not None and gold is not None:
                points.append((math.sqrt(max(kl.mean, 0.0)), gold.mean))
        if points:
            points.sort()
            panel.plot(
                *zip(*points, strict=True), style, color=colour, markersize=3, label=online.FAMILIES[family]
            )
    if start := mean_of(clean, "start", "gold"):
        panel.axhline(start.mean, color="#999999", linewidth=1, linestyle="--")
    panel.set_ylim(bottom=max(LOWEST, panel.get_ylim()[0]))
    panel.set_xlim(-0.05, min(2.4, panel.get_xlim()[1]))
    panel.set_title("demo world: gold against KL (methods at one setting; DPO over β)", fontsize=10)
    _dress(panel, "KL to the start, nats a response (√)")
    ticks = [0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0]
    panel.set_xticks([math.sqrt(kl) for kl in ticks], [f"{kl:g}" for kl in ticks])


def draw_time(panel: Axes, by_arm: ByArm, clean: ByArm, costs: Mapping[str, Any]) -> None:
    """Gold over CPU seconds of the long runs, the means over seeds; the reward model's seconds come first."""
    for number, (arm, meaning) in enumerate(longer.ARMS.items()):
        colour = LONG_COLOURS[number]
        ways = [
            longer.way(result, arm, clean["start"][seed]["gold"], costs["demo"])
            for seed, result in sorted(by_arm.get(arm, {}).items())
            if seed in clean.get("start", {})
        ]
        if not ways:
            continue
        points = [(column[0][0], mean(gold for _, gold in column)) for column in zip(*ways, strict=False)]
        panel.plot(*zip(*points, strict=True), "-o", color=colour, label=meaning, markersize=4)
        end = mean_of(by_arm, arm, "gold")
        if end is not None and end.seeds >= FEWEST:
            aside = points[-1][0] * (1 + 0.012 * number)  # intervals beside each other
            panel.plot([aside] * 2, [end.low, end.high], color=colour, linewidth=1.4)
    panel.set_ylim(bottom=max(4 * LOWEST, panel.get_ylim()[0]))
    panel.set_title(
        f"demo world: {longer.TIMES} budgets (a budget: {WORLDS['demo'].budget} updates of DPO)", fontsize=10
    )
    _dress(panel, "CPU seconds, reward model included")


def _dress(panel: Axes, across: str) -> None:
    panel.set_xlabel(across, fontsize=9)
    panel.set_ylabel("gold", fontsize=9)
    panel.tick_params(labelsize=SMALL)
    panel.grid(alpha=0.3)


def _own_legend(panel: Axes, **place: Any) -> None:
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=SMALL, frameon=False, **place)


def _legend_of(*panels: Axes) -> None:
    for panel in panels:
        panel.tick_params(labelsize=SMALL)
        _own_legend(panel)
