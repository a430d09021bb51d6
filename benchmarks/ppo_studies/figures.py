"""The figures of the studies: what is gained against how far the policy went, and differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.ppo_studies.summary import Point, with_start
from benchmarks.reward_studies.figures import COLOURS, _legend, _save
from benchmarks.reward_studies.summary import ByArm, difference, values

TICKS = (0.25, 1, 2, 4, 8, 16, 32, 64, 128)
"""Nats at the axis."""
SWEEPS = {"best_of_": "best of n", "dpo-": "DPO"}
NEAR = 8.0
"""Nats that the frontier's upper panels reach."""


def draw_frontier(path: Path, study: Any, by_arm: ByArm) -> None:
    """Gold, score and grammar against √KL: the ways of the first seed's runs, near the start and in full."""
    figure = Figure(figsize=(13.2, 8.4), layout="constrained")
    rows = figure.subplots(2, 3)
    runs = [arm for arm in study.ARMS if any(result.get("curve") for result in by_arm.get(arm, {}).values())]
    looks = dict(zip(runs, [colormaps["tab20"](place) for place in range(20)], strict=False))
    for row, furthest in zip(rows, (NEAR, None), strict=True):
        for panel, name in zip(row, ("gold", "score", "grammar"), strict=True):
            for arm, colour in looks.items():
                style = "-" if arm.startswith("ppo") else "--"
                _draw_run(panel, by_arm, arm, name, study.ARMS[arm], color=colour, linestyle=style)
            for colour, (prefix, label) in zip(("#111111", "#777777"), SWEEPS.items(), strict=True):
                _draw_sweep(panel, by_arm, prefix, name, label, colour)
            if furthest is not None:
                panel.set_xlim(-0.05, math.sqrt(furthest))
            _dress(panel, name)
    rows[0][2].set_ylim(0.7, 1.0)
    _legend(figure, list(rows.flatten()))
    _save(figure, path)


def draw_real_text(path: Path, study: Any, by_arm: ByArm) -> None:
    """Gold, the score that was trained on and the mean of the reward models against √KL."""
    by_arm = {
        arm: {
            seed: {**result, "curve": [study.with_mean(point) for point in result.get("curve", [])]}
            for seed, result in results.items()
        }
        for arm, results in by_arm.items()
    }
    figure, panels = _panels(3)
    names = {"gold": "gold", "score_0": "first reward model", "score_mean": "mean of all reward models"}
    for panel, (name, label) in zip(panels, names.items(), strict=True):
        for colour, arm in zip(COLOURS, study.ARMED, strict=False):
            _draw_run(panel, by_arm, arm, name, study.ARMS[arm], color=colour)
        _draw_sweep(panel, by_arm, "best_of", name, "best of n", "#111111")
        _dress(panel, label)
    _legend(figure, panels)
    _save(figure, path)


def draw_trl(path: Path, study: Any, by_arm: ByArm) -> None:
    """Score and gold against √KL, ours solid and TRL's dashed, a colour for each β."""
    figure, panels = _panels(2)
    for panel, name in zip(panels, ("score", "gold"), strict=True):
        for colour, (one, other) in zip(COLOURS, study.PAIRED.items(), strict=False):
            for arm, style in ((one, "-"), (other, "--")):
                _draw_run(
                    panel, by_arm, arm, name, study.ARMS[arm], color=colour, linestyle=style, every_seed=True
                )
        _dress(panel, name)
    _legend(figure, panels)
    _save(figure, path)


def draw_ptx(path: Path, study: Any, by_arm: ByArm) -> None:
    """Score against the perplexity of held-out text, a point for each arm and seed."""
    figure, (panel,) = _panels(1)
    for colour, (arm, meaning) in zip(COLOURS, study.ARMS.items(), strict=False):
        across, up = (list(values(by_arm, arm, name).values()) for name in ("perplexity", "score"))
        panel.plot(across, up, "o", color=colour, label=meaning)
    panel.set_xlabel("perplexity of held-out text")
    panel.set_ylabel("score")
    panel.grid(alpha=0.3)
    _legend(figure, [panel])
    _save(figure, path)


def draw_ablation(path: Path, study: Any, by_arm: ByArm) -> None:
    """The difference of every arm to the baseline, a panel for each metric."""
    arms = [arm for arm in study.ARMS if arm in by_arm and arm != study.BASELINE]
    size = (3.2 + 2.6 * len(study.DRAWN), 1.2 + 0.24 * len(arms))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(study.DRAWN), sharey=True)
    for panel, metric in zip(panels, study.DRAWN, strict=True):
        panel.axvline(0, color="#999999", linewidth=1)
        for place, arm in enumerate(arms):
            gain = difference(by_arm, arm, study.BASELINE, metric)
            if gain is None:
                continue
            colour = COLOURS[1] if gain.sign else COLOURS[0]
            if gain.seeds > 1:
                panel.plot([gain.low, gain.high], [place, place], color=colour, linewidth=1.4)
            panel.plot([gain.mean], [place], "o", color=colour, markersize=4)
        panel.set_title(study.METRICS[metric], fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.3, axis="x")
    panels[0].set_yticks(range(len(arms)), [study.ARMS[arm] for arm in arms], fontsize=8)
    panels[0].set_ylim(len(arms) - 0.5, -0.5)
    figure.suptitle(
        f"difference to “{study.ARMS[study.BASELINE]}”, 95 % intervals; red: excludes 0",
        fontsize=9,
    )
    _save(figure, path)


FIGURES = {
    "frontier": draw_frontier,
    "real_text": draw_real_text,
    "ptx": draw_ptx,
    "trl": draw_trl,
    "ablation": draw_ablation,
}


def _panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(1.2 + 4.0 * count, 4.6), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _draw_sweep(panel: Axes, by_arm: ByArm, prefix: str, name: str, label: str, colour: str) -> None:
    """The means over seeds of the arms of one name, in order of their KL."""
    points = sorted(
        (mean(values(by_arm, arm, "kl").values()), mean(values(by_arm, arm, name).values()))
        for arm in by_arm
        if arm.startswith(prefix)
    )
    across = [math.sqrt(max(kl, 0.0)) for kl, _ in points]
    panel.plot(across, [value for _, value in points], ":s", color=colour, label=label, markersize=4)


def _draw_run(
    panel: Axes,
    by_arm: ByArm,
    arm: str,
    name: str,
    label: str,
    every_seed: bool = False,
    **look: Any,
) -> None:
    """The way of a run from the SFT policy on, its end a larger marker; of the first seed, or of all."""
    results = sorted(by_arm.get(arm, {}).items())
    for number, (seed, result) in enumerate(results if every_seed else results[:1]):
        start: Mapping[str, float] | None = by_arm.get("sft", {}).get(seed)
        curve: Sequence[Point] = [*result["curve"], result]
        points = with_start(curve, start) if start else curve
        across = [math.sqrt(max(point["kl"], 0.0)) for point in points]
        up = [point[name] for point in points]
        panel.plot(across, up, linewidth=1.3, label=label if number == 0 else None, **look)
        panel.plot(across[-1:], up[-1:], "o", color=look["color"], markersize=5)


def _dress(panel: Axes, name: str) -> None:
    low, high = panel.get_xlim()
    ticks = [0.0]
    for kl in TICKS:
        if math.sqrt(kl) <= high and math.sqrt(kl) - math.sqrt(ticks[-1]) >= 0.06 * (high - low):
            ticks.append(kl)
    panel.set_xticks([math.sqrt(kl) for kl in ticks], [f"{kl:g}" for kl in ticks])
    panel.set_xlabel("KL to SFT, nats a response (√)")
    panel.set_ylabel(name)
    panel.grid(alpha=0.3)
