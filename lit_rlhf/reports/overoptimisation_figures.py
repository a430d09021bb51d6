"""The pictures of runs of PPO: numbers over the iterations, and score and gold against √KL, each as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lit_rlhf.reports.charts import blank_chart, dress_chart, root_kl, scale_root_kl
from lit_rlhf.reports.inline_svg import PALETTE, inline_svg
from lit_rlhf.reports.overoptimisation_best_of_n import BestOfN
from lit_rlhf.reports.overoptimisation_course import smooth
from lit_rlhf.reports.overoptimisation_fit import GaoFit
from lit_rlhf.reports.overoptimisation_groups import Group
from lit_rlhf.reports.overoptimisation_runs import EXPLAINED, GOLD, KL, LOWEST_EXPLAINED, Quantity, Run

COLOURS = ("blue", "vermillion", "green", "purple", "orange")
DASHES: tuple[tuple[float, ...], ...] = ((), (7, 2), (2, 1.5), (7, 2, 1.5, 2))
"""On and off, in widths of the line, for the groups behind the first five."""
MOST_POINTS = 500
"""Points of a line; more of them are drawn as means over neighbours."""
_HEIGHT_INCHES = 2.8
_INK = PALETTE["ink"]


@dataclass(frozen=True)
class Look:
    """How a group is drawn."""

    colour: str
    """A name of the palette."""
    dashes: tuple[float, ...]


def look_of(place: int) -> Look:
    """The look of the group at a place: five colours, then the same ones dashed."""
    return Look(COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)])


def draw_over_iterations(name: str, quantity: Quantity, groups: Sequence[Group], description: str) -> str:
    """A quantity over the iterations: each run thin, the running mean of a group's mean thick, validation as squares.

    Args:
        name: of the figure in its page.
        quantity: one that some of the groups have.
        groups: a colour each.
        description: for those who cannot see it.
    """
    figure, axes = blank_chart(_HEIGHT_INCHES)
    for place, group in enumerate(groups):
        look = look_of(place)
        for run in group.runs:
            series = run.get(quantity)
            _draw_thin(axes, series.iterations, series.values, look)
            checked = run.get(quantity, validation=True)
            _draw_squares(axes, checked.iterations, checked.values, look)
        mean = group.mean(quantity)
        _draw_thick(axes, mean.iterations, smooth(mean.values), look)
    axes.set_xlabel("iterations behind the policy", color=_INK)
    axes.set_ylabel(quantity.unit, color=_INK)
    axes.margins(x=0.02)
    drawn = [value for group in groups for run in group.runs for value in run.get(quantity).values]
    if quantity is EXPLAINED and min(drawn, default=0.0) < LOWEST_EXPLAINED:
        axes.set_ylim(LOWEST_EXPLAINED, max(0.1, 1.1 * max(drawn)))
    dress_chart(axes, grid="y")
    _add_updates(axes, [run for group in groups for run in group.runs])
    return inline_svg(figure, name, description)


def draw_against_kl(
    name: str,
    quantity: Quantity,
    groups: Sequence[Group],
    best_of: Sequence[BestOfN],
    fits: Sequence[tuple[GaoFit, float, Look | None]],
    description: str,
) -> str:
    """A quantity against the square root of the KL: a dot a rollout, a thick line their running mean.

    Args:
        name: of the figure in its page.
        quantity: score or gold.
        groups: a colour each.
        best_of: best-of-n, black diamonds with their n.
        fits: curves with the value that they start from, in the group's look, None for best-of-n.
        description: for those who cannot see it.
    """
    figure, axes = blank_chart(3.5)
    kls = [0.0]
    for place, group in enumerate(groups):
        look = look_of(place)
        for run in group.runs:
            at, values = against_kl(run, quantity)
            thin_at, thin_values = _thinned(at, values)
            axes.plot(
                [root_kl(kl) for kl in thin_at], thin_values, linestyle="none", marker="o", markersize=2.8,
                markeredgewidth=0, color=PALETTE[look.colour], alpha=0.4, zorder=2,
            )  # fmt: skip
            checked = against_kl(run, quantity, validation=True)
            _draw_squares(axes, [root_kl(kl) for kl in checked[0]], checked[1], look)
            kls += [*at, *checked[0]]
        _draw_mean_way(axes, group, quantity, look)
    if best_of:
        _draw_best_of(axes, quantity, best_of)
        kls += [point.kl for point in best_of]
    for fit, start, fitted in fits:
        across = np.linspace(0, fit.furthest, 80)
        colour = PALETTE[fitted.colour] if fitted else _INK
        axes.plot(
            across,
            [start + fit.gain(d) for d in across],
            color=colour,
            linewidth=1.2,
            linestyle=(0, (1, 2)),
            zorder=4,
        )
    scale_root_kl(figure, axes, kls)
    axes.set_xlabel("KL from the reference, nats a response (scale: its root)", color=_INK)
    axes.set_ylabel(quantity.unit, color=_INK)
    axes.margins(y=0.1)
    dress_chart(axes, grid="y")
    return inline_svg(figure, name, description)


def against_kl(run: Run, quantity: Quantity, validation: bool = False) -> tuple[list[float], list[float]]:
    """KL and the quantity at the iterations that have both, measured on the same responses."""
    kl, series = run.get(KL, validation), run.get(quantity, validation)
    both = [(at, value) for i, value in zip(series.iterations, series.values) if (at := kl.at(i)) is not None]
    return [at for at, _ in both], [value for _, value in both]


def _draw_mean_way(axes: Axes, group: Group, quantity: Quantity, look: Look) -> None:
    kl, values = group.mean(KL), group.mean(quantity)
    both = [(at, value) for i, value in zip(values.iterations, values.values) if (at := kl.at(i)) is not None]
    if both:
        across = smooth([root_kl(at) for at, _ in both])
        up = smooth([value for _, value in both])
        _draw_thick(axes, across, up, look)
        axes.plot(across[-1:], up[-1:], marker="o", markersize=6, color=PALETTE[look.colour], zorder=5)


def _draw_best_of(axes: Axes, quantity: Quantity, best_of: Sequence[BestOfN]) -> None:
    found = [(root_kl(p.kl), p.gold if quantity is GOLD else p.score, p.n) for p in best_of]
    points = [(x, y, n) for x, y, n in found if y is not None]
    axes.plot(
        [x for x, _, _ in points], [y for _, y, _ in points], color=_INK, linewidth=1.2, marker="D", markersize=4.5,
        zorder=5,
    )  # fmt: skip
    for x, y, n in points[-1:]:
        axes.annotate(
            f"best of {n}",
            (x, y),
            xytext=(0, 6),
            textcoords="offset points",
            color=_INK,
            fontsize=9,
            ha="center",
        )


def _draw_thin(axes: Axes, across: Sequence[float], up: Sequence[float], look: Look) -> None:
    x, y = _thinned(across, up)
    axes.plot(x, y, color=PALETTE[look.colour], linewidth=0.8, alpha=0.45, zorder=2)


def _draw_thick(axes: Axes, across: Sequence[float], up: Sequence[float], look: Look) -> None:
    x, y = _thinned(across, up)
    style = (0, look.dashes) if look.dashes else "-"
    marker = "o" if len(x) == 1 else "none"  # a line of one point is nothing to see
    axes.plot(x, y, color=PALETTE[look.colour], linewidth=2, linestyle=style, marker=marker, zorder=3)


def _draw_squares(axes: Axes, across: Sequence[float], up: Sequence[float], look: Look) -> None:
    x, y = _thinned(across, up)
    axes.plot(
        x, y, linestyle="none", marker="s", markersize=4.5, markerfacecolor="none", markeredgewidth=1.2,
        color=PALETTE[look.colour], zorder=4,
    )  # fmt: skip


def _thinned(across: Sequence[float], up: Sequence[float]) -> tuple[list[float], list[float]]:
    """The same, or means over neighbours where there are more than :data:`MOST_POINTS`."""
    if len(across) <= MOST_POINTS:
        return list(across), list(up)
    parts = [np.array_split(np.asarray(column, dtype=float), MOST_POINTS) for column in (across, up)]
    x, y = ([float(part.mean()) for part in column] for column in parts)
    return x, y


def _add_updates(axes: Axes, runs: Sequence[Run]) -> None:
    """A second scale on top, where an iteration is as many updates in all runs."""
    each = {run.updates_per_iteration for run in runs}
    if len(each) != 1:
        return
    updates = each.pop()
    scales: Any = (lambda iteration: iteration * updates, lambda update: update / updates)
    top = axes.secondary_xaxis("top", functions=scales)
    top.set_xlabel("optimizer updates", color=_INK, fontsize=8.5)
    top.tick_params(colors=_INK, length=2, labelsize=8)
    top.spines["top"].set_visible(False)
