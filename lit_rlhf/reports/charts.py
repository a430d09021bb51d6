"""The look that the figures of a page share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lit_rlhf.reports.inline_svg import PALETTE

WIDTH_INCHES = 4.8
"""A phone shows the text at about its own size, a column of a desktop page a third larger."""
_KL_TICKS = (0.25, 1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_INCHES_A_TICK = 0.38
_INK, _FAINT = PALETTE["ink"], PALETTE["faint"]


def blank_chart(height_inches: float) -> tuple[Figure, Axes]:
    """An empty figure of the pages' width, with its axes."""
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def dress_chart(axes: Axes, grid: Literal["x", "y"]) -> None:
    """Thin lines across one direction, no frame."""
    axes.grid(axis=grid, color=_FAINT, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_INK)


def root_kl(kl: float) -> float:
    """Where a KL stands on an axis of √KL; an estimate from samples can fall a little under 0."""
    return math.sqrt(max(kl, 0.0))


def scale_root_kl(figure: Figure, axes: Axes, kls: Sequence[float]) -> None:
    """Make the horizontal axis one of √KL, from 0 past the largest of `kls`, its ticks in nats."""
    furthest = max([0.25, *kls])
    low, high = -0.03 * root_kl(furthest), 1.08 * root_kl(furthest)
    apart = (high - low) * _INCHES_A_TICK / figure.get_figwidth()
    ticks = [0.0]
    for kl in _KL_TICKS:
        if kl <= 1.15 * furthest and root_kl(kl) >= root_kl(ticks[-1]) + apart:
            ticks.append(kl)
    axes.set_xticks([root_kl(kl) for kl in ticks], [f"{kl:g}" for kl in ticks])
    axes.set_xlim(low, high)
