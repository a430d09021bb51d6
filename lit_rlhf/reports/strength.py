"""Preference strengths as a picture: how many labels the models doubt, and how far they agree about it.

Source:
    Wang et al. 2024, "Secrets of RLHF in Large Language Models Part II", arXiv 2401.06080.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_INK, _FAINT = "#333333", "#BBBBBB"
_NEGATIVE, _POSITIVE = "#D55E00", "#0072B2"
_BINS = 40


def draw_strengths(path: Path, strengths: Sequence[float], spreads: Sequence[float]) -> None:
    """Draw a histogram of the strengths over their spread into a PNG of 1200 by 900 pixels.

    The file is written beside `path` and then renamed.

    Args:
        path: the picture's file; its folder must exist.
        strengths: mean score difference of each comparison over the models.
        spreads: its standard deviation over the models.

    Raises:
        ValueError: there are none, or one is not finite.
    """
    if not strengths or not all(map(math.isfinite, (*strengths, *spreads))):
        raise ValueError(f"strengths: expected finite numbers, found {list(strengths)[:5]} …")
    figure = Figure(figsize=(8.0, 6.0), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    low, high = min(*strengths, 0.0), max(*strengths, 0.0)
    width = (high - low or 1.0) / _BINS
    # An edge at 0, so that no bar holds labels that are doubted and others that are not; and one past the highest.
    edges = [width * number for number in range(math.floor(low / width), math.floor(high / width) + 2)]
    upper.hist([value for value in strengths if value < 0], edges, color=_NEGATIVE, label="label doubted")
    upper.hist([value for value in strengths if value >= 0], edges, color=_POSITIVE, label="label shared")
    negative = sum(value < 0 for value in strengths) / len(strengths)
    upper.set_title(
        f"{negative:.1%} of {len(strengths)} comparisons have a negative strength", loc="left", color=_INK
    )
    upper.set_ylabel("comparisons", color=_INK)
    upper.legend(frameon=False, labelcolor=_INK)
    colours = [_NEGATIVE if value < 0 else _POSITIVE for value in strengths]
    lower.scatter(strengths, spreads, s=6, c=colours, alpha=0.4, linewidths=0)
    lower.set_ylim(bottom=0)
    lower.set_ylabel("spread over the models", color=_INK)
    lower.set_xlabel("strength: mean over the models of score(better) - score(worse)", color=_INK)
    for axes in (upper, lower):
        _dress(axes)
    picture = io.BytesIO()
    canvas.print_png(picture)
    beside = path.with_name(f".{path.name}.writing")
    beside.write_bytes(picture.getvalue())
    os.replace(beside, path)


def _dress(axes: Axes) -> None:
    axes.axvline(0, color=_FAINT, linewidth=1)
    axes.tick_params(colors=_INK, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
