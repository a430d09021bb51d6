"""The figures of the studies: learning curves, and differences with their intervals."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.reward_studies.summary import ByArm, difference, mean_curve

COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#8e6bbf", "#c98a1b", "#4d4d4d", "#3aa6a6", "#a65628")
Groups = Mapping[tuple[str, str], ByArm]


def draw_curves(path: Path, study: Any, grouped: Groups) -> None:
    """Accuracy over passes, on training rows (dashed) and held out, a panel for each world."""
    figure = Figure(figsize=(4.6 * len(grouped), 3.9), layout="constrained")
    panels = figure.subplots(1, len(grouped), squeeze=False)[0]
    for panel, ((world, _), by_arm) in zip(panels, grouped.items(), strict=True):
        arms = [arm for arm in study.DRAWN if arm in by_arm]
        for arm, colour in zip(arms, COLOURS):
            for metric, style in (("accuracy", "-"), ("train_accuracy", "--")):
                points = mean_curve(by_arm, arm, metric)
                label = study.ARMS[arm] if style == "-" else None
                panel.plot(
                    *zip(*points), style, color=colour, label=label, linewidth=1.6, marker="o", markersize=3
                )
        panel.set_title(world)
        panel.set_xlabel("passes over each response")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy: held out (solid), training (dashed)")
    _legend(figure, panels)
    _save(figure, path)


def draw_differences(path: Path, study: Any, grouped: Groups) -> None:
    """The difference of every arm to the baseline in the study's first metrics, a panel a world and condition."""
    arms = [arm for arm in study.ARMS if arm != study.BASELINE]
    metrics = [(metric, study.METRICS[metric]) for metric in study.DRAWN]
    columns = 4 if len(grouped) == 4 else min(3, len(grouped))
    rows = -(-len(grouped) // columns)
    size = (2.2 + 2.9 * columns, 0.8 + rows * (0.8 + 0.34 * len(arms)))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for panel, ((world, condition), by_arm) in zip(panels, grouped.items()):
        panel.axvline(0, color="#999999", linewidth=1)
        for number, (metric, meaning) in enumerate(metrics):
            for place, arm in enumerate(arms):
                gain = difference(by_arm, arm, study.BASELINE, metric)
                if gain is not None and gain.seeds > 1:
                    height = place + 0.16 * (number - (len(metrics) - 1) / 2)
                    panel.plot([gain.low, gain.high], [height, height], color=COLOURS[number], linewidth=1.4)
                    label = meaning if place == 0 else None
                    panel.plot([gain.mean], [height], "o", color=COLOURS[number], markersize=4, label=label)
        panel.set_title(f"{world}\n{condition.replace('_', ' ')}", fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.3, axis="x")
        panel.locator_params(axis="x", nbins=5)
    panels[0].set_yticks(range(len(arms)), [study.ARMS[arm] for arm in arms], fontsize=8)
    panels[0].set_ylim(len(arms) - 0.5, -0.5)
    handles = {h.get_label(): h for p in panels for h in p.get_legend_handles_labels()[0]}
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", fontsize=8, frameon=False, ncols=3
    )
    figure.suptitle(f"difference to “{study.ARMS[study.BASELINE]}”, 95 % intervals over seeds", fontsize=10)
    _save(figure, path)


def _legend(figure: Figure, panels: Iterable[Any]) -> None:
    """One for all panels, below them."""
    handles = {h.get_label(): h for panel in panels for h in panel.get_legend_handles_labels()[0]}
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", fontsize=8, frameon=False, ncols=3
    )


def _save(figure: Figure, path: Path) -> None:
    beside = path.with_name(f".{path.name}.writing")
    FigureCanvasAgg(figure).print_png(beside, metadata={"Software": None})
    os.replace(beside, path)
