"""The pictures of a reward model's evaluation, each as SVG for a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from torch import Tensor

from lit_rlhf.reports.charts import WIDTH_INCHES, blank_chart, dress_chart
from lit_rlhf.reports.foreign_text import one_line
from lit_rlhf.reports.inline_svg import PALETTE, inline_svg

MOST_POINTS = 1000
"""Points of a scatter plot; more of them are a cloud without shape, and a heavy page."""
_BARS = 40
_LENGTH_BINS = 8
_LABEL = 22
_PERCENT = FuncFormatter(lambda share, place: f"{100 * share:.4g}%")
_INK = PALETTE["ink"]
_BLUE, _VERMILLION = PALETTE["blue"], PALETTE["vermillion"]


@dataclass(frozen=True)
class Share:
    """A share with its 95% interval and the number of comparisons behind it: a line of :func:`draw_shares`."""

    name: str
    mean: float
    low: float
    high: float
    count: int | None = None
    """None where the number is not of comparisons."""
    mark: str = ""
    """Behind the name."""


def draw_shares(
    name: str, shares: Sequence[Share], emphasised: int | None = None, overall: float | None = None
) -> str:
    """Shares below one another, each a point with its interval and its count; a dashed line is at a half.

    Args:
        name: of the figure in its page.
        shares: from the top down.
        emphasised: the place of the one in the model's colour; None = all of them are.
        overall: where a thin line stands for comparison; None = at the emphasised one, if there is one.
    """
    figure, axes = blank_chart(0.75 + 0.27 * len(shares))
    lowest = min([0.5, *(share.low for share in shares)])
    highest = max([0.5, *(share.high for share in shares)])
    room = max(0.05, 0.06 * (highest - lowest))
    axes.set_xlim(max(-0.01, lowest - room), min(1.01, highest + room))
    axes.axvline(0.5, color=_INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    if overall is None and emphasised is not None:
        overall = shares[emphasised].mean
    if overall is not None:
        axes.axvline(overall, color=_BLUE, linewidth=0.8, alpha=0.5, zorder=1)
    for place, share in enumerate(shares):
        colour = _BLUE if emphasised in (None, place) else _INK
        axes.plot([share.low, share.high], [place, place], color=colour, linewidth=2.2, zorder=2)
        axes.plot([share.mean], [place], marker="o", markersize=6, color=colour, linestyle="none", zorder=3)
    axes.set_yticks(range(len(shares)), [one_line(share.name, _LABEL) + share.mark for share in shares])
    axes.set_ylim(len(shares) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(_PERCENT)
    dress_chart(axes, grid="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if any(share.count is not None for share in shares):
        counts = axes.secondary_yaxis("right")
        labels = ["" if share.count is None else f"{share.count:,}" for share in shares]
        counts.set_yticks(range(len(shares)), labels)
        counts.tick_params(length=0, colors=_INK)
        counts.spines["right"].set_visible(False)
    said = "; ".join(f"{one_line(s.name, 60)} {s.mean:.3f} [{s.low:.3f}, {s.high:.3f}]" for s in shares)
    return inline_svg(figure, name, f"Shares right with 95% intervals: {said}.")


def draw_reliability(bins: Sequence[tuple[float, float, int]]) -> str:
    """What the model says against what people said, with the number of comparisons at each confidence below.

    Args:
        bins: mean confidence, share right and count of each bin that holds a comparison.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    start = 0.5 if all(confidence >= 0.5 for confidence, _, _ in bins) else 0.0
    axes.plot([start, 1], [start, 1], color=_INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for confidence, right, count in bins:
        low, high = _wilson(right, count)
        axes.plot([confidence, confidence], [low, high], color=_BLUE, linewidth=1.6, alpha=0.6, zorder=2)
    across, up = [found[0] for found in bins], [found[1] for found in bins]
    axes.plot(across, up, color=_BLUE, linewidth=1, marker="o", markersize=5, zorder=3)
    below.bar(across, [count for _, _, count in bins], width=0.6 * (1 - start) / 10, color=_BLUE, alpha=0.75)
    axes.set_xlim(start - 0.02, 1.02)
    axes.set_ylim(min([start, *(_wilson(right, count)[0] for _, right, count in bins)]) - 0.02, 1.02)
    axes.set_ylabel("share right", color=_INK)
    below.set_ylabel("number", color=_INK)
    below.set_xlabel("what the model says: confidence in the response it prefers", color=_INK)
    for one in (axes, below):
        dress_chart(one, grid="y")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_PERCENT)
    said = "; ".join(f"said {c:.2f}, right {r:.2f} of {n}" for c, r, n in bins)
    return inline_svg(figure, "reliability", f"Reliability plot: {said}.")


def draw_differences(differences: Tensor) -> str:
    """How far apart the scores are, where the model is right and where it is wrong.

    Args:
        differences: score of the better response minus that of the worse, ``[C]``, finite.
    """
    figure, axes = blank_chart(2.7)
    reach = float(differences.abs().max()) or 1.0
    inner = min(reach, 1.3 * float(_quantile(differences.abs(), 0.99)) or reach)
    edges = torch.linspace(-inner, inner, _BARS + 1)
    held = differences.float().clamp(-inner, inner)
    counts = torch.histc(held, _BARS, -inner, inner)
    wide = float(edges[1] - edges[0])
    for start, stop, colour in ((0, _BARS // 2, _VERMILLION), (_BARS // 2, _BARS, _BLUE)):
        axes.bar(
            edges[start:stop].tolist(), counts[start:stop].tolist(), width=wide, align="edge",
            color=colour, edgecolor="none",
        )  # fmt: skip
    axes.axvline(0, color=_INK, linewidth=1, zorder=3)
    axes.margins(y=0.16)
    wrong, right = int((differences < 0).sum()), int((differences > 0).sum())
    for share, side, colour, text in (
        (0.02, "left", _VERMILLION, f"{wrong:,} wrong"),
        (0.98, "right", _BLUE, f"{right:,} right"),
    ):
        axes.text(share, 0.98, text, transform=axes.transAxes, ha=side, va="top", color=colour, weight="bold")
    axes.set_xlabel("score of the better response − score of the worse", color=_INK)
    axes.set_ylabel("comparisons", color=_INK)
    dress_chart(axes, grid="y")
    return inline_svg(
        figure, "differences", f"Score differences: {right} above 0, where the model is right, {wrong} below."
    )


def draw_lengths(lengths: Tensor, scores: Tensor) -> str:
    """Score against length, a point a response, with the mean score in bins of equally many responses.

    Args:
        lengths: tokens of each response, ``[N]``.
        scores: of each, ``[N]``, finite; more than :data:`MOST_POINTS` are drawn in part, the means are of all.
    """
    figure, axes = blank_chart(2.9)
    drawn = spread_choice(len(lengths), MOST_POINTS)
    axes.plot(
        lengths[drawn].tolist(), scores[drawn].tolist(), marker="o", markersize=2.6, markeredgewidth=0,
        color=_BLUE, alpha=0.35, linestyle="none",
    )  # fmt: skip
    order = lengths.float().argsort(stable=True)
    parts = [part for part in order.tensor_split(_LENGTH_BINS) if len(part)]
    means = [(float(lengths[part].float().mean()), float(scores[part].float().mean())) for part in parts]
    axes.plot(*zip(*means, strict=True), color=_VERMILLION, linewidth=1.8, marker="s", markersize=4)
    axes.set_xlabel("tokens of the response", color=_INK)
    axes.set_ylabel("score", color=_INK)
    dress_chart(axes, grid="y")
    return inline_svg(
        figure, "lengths", "Score against length. Means from the shortest to the longest responses: "
        + "; ".join(f"{score:.2f} at {length:.0f} tokens" for length, score in means) + ".",
    )  # fmt: skip


def spread_choice(count: int, most: int) -> Tensor:
    """At most `most` of the numbers below `count`, evenly spread, always the same ones."""
    if count <= most:
        return torch.arange(count)
    return torch.linspace(0, count - 1, most, dtype=torch.float64).round().long()


def _quantile(values: Tensor, share: float) -> Tensor:
    # torch.quantile refuses more than 16 million values.
    return values.sort().values[min(len(values) - 1, math.ceil(share * len(values)))]


def _wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share, as if the comparisons were independent."""
    z = 1.96
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)
