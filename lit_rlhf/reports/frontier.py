"""The frontier: how much gold reward each method buys for how far it moves from where it started.

The axis is the square root of KL(policy || SFT), on which best-of-n and reinforcement learning are
near straight lines before they bend; its ticks are in nats.

Source:
    Gao, Schulman and Hilton 2022, "Scaling laws for reward model overoptimization", figure 1.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lit_rlhf.reports.charts import root_kl, scale_root_kl
from lit_rlhf.reports.labels import PointLabel, place_labels


class FrontierPoint(TypedDict):
    """One policy, measured."""

    method: str
    """``sft``, ``best_of_n``, ``dpo`` or ``ppo``."""
    beta: float | None
    """The price of KL it was trained with, where it has one."""
    n: int | None
    """Of best-of-n."""
    kl: float
    """KL from the SFT policy, nats per response."""
    gold: float
    """Mean gold reward."""
    grammar: float
    """Share of responses that are grammatical."""


class TrajectoryPoint(TypedDict):
    """One run, measured on its way."""

    iteration: int
    kl: float
    gold: float
    grammar: float


@dataclass(frozen=True)
class _Look:
    name: str
    colour: str
    marker: str


# Three of Okabe and Ito's colours and one of Tol's, which the colour-blind tell apart; markers differ too.
_LOOKS = {
    "best_of_n": _Look("best-of-n", "#009E73", "s"),
    "dpo": _Look("DPO", "#0072B2", "^"),
    "ppo": _Look("PPO", "#D55E00", "o"),
}
_START = _Look("SFT", "#222222", "D")
_RUN_COLOUR = "#882255"
_CLEARLY_WORSE = 0.1
_INK, _FAINT = "#333333", "#BBBBBB"
_SIZE_INCHES, _DOTS_PER_INCH = (8.0, 5.0), 150


def draw_frontier(
    points: Sequence[FrontierPoint],
    path: Path,
    trajectories: Mapping[str, Sequence[TrajectoryPoint]] | None = None,
) -> None:
    """Draw gold reward against the square root of the KL into a PNG of 1200 by 750 pixels.

    A sweep is one line per method from the SFT point on, in the order of the KL. A marker is filled
    as far as the responses are grammatical: a hollow one is no longer language. The file is written
    beside `path` and then renamed.

    Args:
        points: the measured policies, exactly one of them with the method ``sft``.
        path: the picture's file; its folder must exist.
        trajectories: measured runs by their label, for example ``PPO, β = 0``, drawn from their first
            iteration to their last. With any given, points with β = 0 are left to them.

    Raises:
        ValueError: no SFT point or several, an unknown method, or a number that is not finite.
    """
    runs = trajectories or {}
    start = _checked_start(points, runs)
    figure = Figure(figsize=_SIZE_INCHES, dpi=_DOTS_PER_INCH, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    labels: list[PointLabel] = []
    axes.axhline(start["gold"], color=_FAINT, linewidth=1, linestyle=(0, (4, 4)), zorder=0)
    for name, run in runs.items():
        labels += _draw_run(axes, name, run)
    for method, look in _LOOKS.items():
        sweep = [p for p in points if p["method"] == method and not (runs and p["beta"] == 0)]
        labels += _draw_sweep(axes, look, start, sorted(sweep, key=lambda point: point["kl"]))
    labels.append(_draw_start(axes, start))
    _dress(figure, axes, [*points, *(point for run in runs.values() for point in run)])
    canvas.draw()  # settles the layout, which the places of the labels depend on
    place_labels(axes, labels)
    _save(figure, path)


def _checked_start(
    points: Sequence[FrontierPoint], runs: Mapping[str, Sequence[TrajectoryPoint]]
) -> FrontierPoint:
    starts = [point for point in points if point["method"] == "sft"]
    if len(starts) != 1:
        raise ValueError(f"frontier: expected exactly one point with method 'sft', found {len(starts)}")
    for point in points:
        if point["method"] not in ("sft", *_LOOKS):
            raise ValueError(
                f"frontier: expected a method of sft, {', '.join(_LOOKS)}, found {point['method']!r}"
            )
    for measured in (*points, *(point for run in runs.values() for point in run)):
        if not all(map(math.isfinite, (measured["kl"], measured["gold"], measured["grammar"]))):
            raise ValueError(f"frontier: expected finite kl, gold and grammar, found {dict(measured)}")
    return starts[0]


def _draw_sweep(
    axes: Axes, look: _Look, start: FrontierPoint, sweep: Sequence[FrontierPoint]
) -> list[PointLabel]:
    if not sweep:
        return []
    across = [root_kl(point["kl"]) for point in (start, *sweep)]
    up = [point["gold"] for point in (start, *sweep)]
    axes.plot(across, up, color=look.colour, linewidth=2, zorder=2)
    labels = []
    for x, y, point in zip(across[1:], up[1:], sweep, strict=True):
        _draw_marker(axes, x, y, look.marker, look.colour, point["grammar"], size=9)
        last = point is sweep[-1]
        text = (f"{look.name}, " if last else "") + _setting(point, start)
        labels.append(PointLabel(x, y, text, look.colour, emphasised=last))
    return labels


def _setting(point: FrontierPoint, start: FrontierPoint) -> str:
    """What the point was made with, and its grammar where clearly worse than at the start."""
    setting = f"β = {point['beta']:g}" if point["beta"] is not None else f"n = {point['n']}"
    if point["grammar"] < start["grammar"] - _CLEARLY_WORSE:
        setting += f"\n{point['grammar']:.0%} grammatical"
    return setting


def _draw_run(axes: Axes, name: str, run: Sequence[TrajectoryPoint]) -> list[PointLabel]:
    """The way of one run, with its name at its end and its peak, where it is another point, marked."""
    if not run:
        return []
    across, up = [root_kl(point["kl"]) for point in run], [point["gold"] for point in run]
    axes.plot(across, up, color=_RUN_COLOUR, linewidth=1.6, linestyle=(0, (5, 2)), zorder=1)
    # The first point is where every run starts: the SFT policy, which has a marker of its own.
    for x, y, point in list(zip(across, up, run, strict=True))[1:]:
        _draw_marker(axes, x, y, "o", _RUN_COLOUR, point["grammar"], size=7)
    peak, last = max(run, key=lambda point: point["gold"]), run[-1]
    labels = [
        PointLabel(across[-1], up[-1], name, _RUN_COLOUR, emphasised=True),
        PointLabel(across[-1], up[-1], _when(last), _RUN_COLOUR),
    ]
    if peak is not last and peak is not run[0]:
        labels.append(PointLabel(root_kl(peak["kl"]), peak["gold"], _when(peak), _RUN_COLOUR))
    return labels


def _when(point: TrajectoryPoint) -> str:
    return f"iteration {point['iteration']}: {point['grammar']:.0%} grammatical"


def _draw_start(axes: Axes, start: FrontierPoint) -> PointLabel:
    x, y = root_kl(start["kl"]), start["gold"]
    _draw_marker(axes, x, y, _START.marker, _START.colour, start["grammar"], size=9)
    return PointLabel(x, y, _START.name, _START.colour, emphasised=True)


def _draw_marker(
    axes: Axes, x: float, y: float, marker: str, colour: str, grammar: float, size: float
) -> None:
    axes.plot(
        [x], [y], marker=marker, markersize=size, markeredgecolor=colour, markeredgewidth=1.6,
        markerfacecolor=_filled(colour, grammar), linestyle="none", zorder=3, clip_on=False,
    )  # fmt: skip


def _filled(colour: str, grammar: float) -> tuple[float, float, float]:
    """From white, where nothing is grammatical, to `colour`, where everything is."""
    share = min(max(grammar, 0.0), 1.0)
    red, green, blue = (1 - share * (1 - channel) for channel in to_rgb(colour))
    return red, green, blue


def _dress(figure: Figure, axes: Axes, measured: Sequence[FrontierPoint | TrajectoryPoint]) -> None:
    """Title, axes, ticks in nats, and the key to the fill."""
    scale_root_kl(figure, axes, [point["kl"] for point in measured])
    axes.margins(y=0.14)
    axes.set_xlabel("KL from the SFT policy, nats per response (square-root scale)", color=_INK)
    axes.set_ylabel("gold reward", color=_INK)
    axes.set_title("What each method gains, and how far it moves", loc="left", color=_INK, pad=12)
    axes.grid(axis="y", color=_FAINT, linewidth=0.5, alpha=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    key = [
        Line2D([], [], marker="o", linestyle="none", markersize=7, markeredgecolor=_INK, markeredgewidth=1.4,
               markerfacecolor=_filled(_INK, share), label=f"{share:.0%}" + " grammatical" * (share == 0))
        for share in (1.0, 0.5, 0.0)
    ]  # fmt: skip
    axes.legend(
        handles=key, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False, fontsize=9,
        labelcolor=_INK, handletextpad=0.1, columnspacing=0.9,
    )  # fmt: skip


def _save(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    beside = path.with_name(f".{path.name}.writing")
    beside.write_bytes(picture.getvalue())
    os.replace(beside, path)
