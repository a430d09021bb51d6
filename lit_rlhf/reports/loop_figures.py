"""The pictures of a loop: numbers by round, each with its interval, and gold against how far the policy has moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lit_rlhf.reports.charts import blank_chart, dress_chart, root_kl, scale_root_kl
from lit_rlhf.reports.inline_svg import PALETTE, inline_svg

_HEIGHT_INCHES = 2.7
_INK, _FAINT = PALETTE["ink"], PALETTE["faint"]
_MARKERS = {"blue": "o", "vermillion": "s", "green": "^", "purple": "D"}
Interval = Mapping[str, Any]
"""``mean``, and ``low`` and ``high`` where they are known."""


@dataclass(frozen=True)
class Line:
    """A quantity by round."""

    name: str
    colour: str
    """Of the palette; each has a marker of its own."""
    rounds: Sequence[int]
    values: Sequence[Interval]


def draw_by_round(
    name: str, lines: Sequence[Line], unit: str, description: str, level: float | None = None
) -> str:
    """Numbers over the rounds, with bars for their intervals.

    Args:
        name: of the figure in its page.
        lines: at least one value each.
        unit: of the vertical axis.
        description: for those who cannot see it.
        level: a faint line across, such as an even chance.
    """
    figure, axes = blank_chart(_HEIGHT_INCHES)
    if level is not None:
        axes.axhline(level, color=_FAINT, linewidth=1, linestyle=(0, (4, 4)), zorder=0)
    shift = 0.045 if len(lines) > 1 else 0.0
    for place, line in enumerate(lines):
        across = [number + shift * (place - (len(lines) - 1) / 2) for number in line.rounds]
        _draw_line(axes, across, line.values, line.colour)
    numbers = [number for line in lines for number in line.rounds]
    axes.set_xlim(min(numbers) - 0.3, max(numbers) + 0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.set_xlabel("round (0 = before)" if 0 in numbers else "round", color=_INK)
    axes.set_ylabel(unit, color=_INK)
    axes.margins(y=0.12)
    dress_chart(axes, grid="y")
    return inline_svg(figure, name, description)


def draw_frontier_by_round(
    name: str, points: Sequence[tuple[str, float, Interval]], unit: str, description: str
) -> str:
    """A quantity against the root of the KL, the rounds joined in their order.

    Args:
        name: of the figure in its page.
        points: label, KL in nats a response, and value of each round, from the start.
        unit: of the vertical axis.
        description: for those who cannot see it.
    """
    figure, axes = blank_chart(_HEIGHT_INCHES)
    across = [root_kl(kl) for _, kl, _ in points]
    _draw_line(axes, across, [value for _, _, value in points], "blue")
    for x, (label, _, value) in zip(across, points, strict=True):
        axes.annotate(
            label,
            (x, float(value["mean"])),
            xytext=(6, -11),
            textcoords="offset points",
            color=_INK,
            fontsize=9,
        )
    scale_root_kl(figure, axes, [kl for _, kl, _ in points])
    axes.set_xlabel("KL from the loop’s model, nats a response (scale: its root)", color=_INK)
    axes.set_ylabel(unit, color=_INK)
    axes.margins(y=0.16)
    dress_chart(axes, grid="y")
    return inline_svg(figure, name, description)


def _draw_line(axes: Axes, across: Sequence[float], values: Sequence[Interval], colour: str) -> None:
    up = [float(value["mean"]) for value in values]
    paint = PALETTE[colour]
    axes.plot(across, up, color=paint, linewidth=2, marker=_MARKERS[colour], markersize=5.5, zorder=3)
    for x, value in zip(across, values, strict=True):
        if value.get("low") is not None:
            axes.plot([x, x], [value["low"], value["high"]], color=paint, linewidth=1.1, zorder=2)
