"""The pictures of a comparison: what each method gains against how far it moves, and one number a method."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from lit_rlhf.reports.charts import blank_chart, dress_chart, root_kl, scale_root_kl
from lit_rlhf.reports.compare_resampling import Estimate
from lit_rlhf.reports.inline_svg import PALETTE, inline_svg
from lit_rlhf.reports.labels import PointLabel, place_labels
from lit_rlhf.reports.overoptimisation_figures import COLOURS

_INK, _FAINT = PALETTE["ink"], PALETTE["faint"]
_MARKERS = ("o", "s", "^", "D", "v")
MOST_NAMED = 6
"""Methods that are named in the first figure; of more their numbers stand there, which the key explains."""
_LONGEST_NAME = 16
_LABEL = 22
_FURTHER, _DIRECTIONS = (36.0, 48.0, 60.0, 76.0), 16
"""Points (1/72 inch) from its point, and directions, where a label is tried that finds no room close by."""
_FAR = 12.0
"""Points (1/72 inch) between a point and its label from which a line joins them."""
SHAPES = {
    "o": "M5 .5a4.5 4.5 0 1 0 .01 0Z",
    "s": "M.8.8h8.4v8.4H.8Z",
    "^": "M5 .5L9.7 9H.3Z",
    "D": "M5 0l5 5-5 5-5-5Z",
    "v": "M5 9.5L.3 1h9.4Z",
}
"""The markers as paths in a box of 10 by 10, for the key beside a figure."""


@dataclass(frozen=True)
class Look:
    """How a method is drawn: one of 25 pairs of a colour and a marker."""

    colour: str
    """A name of the palette."""
    marker: str


@dataclass(frozen=True)
class Place:
    """A method in the first figure."""

    name: str
    number: int
    """From 1, as in the key."""
    kl: Estimate
    value: Estimate
    seeds: Sequence[tuple[float, float]]
    """KL and value of each seed."""


@dataclass(frozen=True)
class Bar:
    """A method in a figure of one number a method."""

    name: str
    number: int
    value: Estimate
    seeds: Sequence[float]


def look_of(place: int) -> Look:
    """The look of the method at a place, from 0: neighbours differ in colour and in marker."""
    colours, shift = len(COLOURS), place // len(COLOURS)
    return Look(COLOURS[place % colours], _MARKERS[(place + shift) % len(_MARKERS)])


def are_named(names: Sequence[str]) -> bool:
    """Whether the first figure has room for the methods' names."""
    return len(names) <= MOST_NAMED and all(len(name) <= _LONGEST_NAME for name in names)


def draw_against_kl(
    places: Sequence[Place], start: float | None, unit: str, named: bool, description: str
) -> str:
    """A quantity against the square root of the KL: a dot a seed, a mean with error bars a method, the start at 0.

    Args:
        places: methods that have both.
        start: the quantity at the start.
        unit: of the vertical axis.
        named: whether labels are names, not numbers.
        description: for those who cannot see it.
    """
    figure, axes = blank_chart(3.6 if len(places) <= 8 else 4.9)
    kls, labels = [0.0], []
    if start is not None:
        axes.axhline(start, color=_FAINT, linewidth=1, linestyle=(0, (4, 4)), zorder=0)
        axes.plot([0.0], [start], marker="o", markersize=5, color=_INK, zorder=4)
        labels.append(PointLabel(0.0, start, "start", _INK))
    for place in places:
        look = look_of(place.number - 1)
        _draw_place(axes, place, look)
        kls += [place.kl.mean, *(kl for kl, _ in place.seeds), *([place.kl.high] if place.kl.high else [])]
        text = place.name if named else str(place.number)
        labels.append(PointLabel(root_kl(place.kl.mean), place.value.mean, text, PALETTE[look.colour]))
    scale_root_kl(figure, axes, kls)
    axes.set_xlabel("KL from the start, nats a response (scale: its root)", color=_INK)
    axes.set_ylabel(unit, color=_INK)
    axes.margins(y=0.14)
    dress_chart(axes, grid="y")
    _write_labels(figure, axes, labels)
    return inline_svg(figure, "against-kl", description)


def draw_by_method(name: str, bars: Sequence[Bar], unit: str, level: float | None, description: str) -> str:
    """One number a method, from the top down: a dot a seed, the mean and its interval.

    Args:
        name: of the figure in its page.
        bars: methods that have the number.
        unit: of the horizontal axis.
        level: a line across, such as an even chance, or the start; without one the axis starts at 0.
        description: for those who cannot see it.
    """
    figure, axes = blank_chart(0.75 + 0.25 * max(3, len(bars)))
    if level is not None:
        axes.axvline(level, color=_INK, linewidth=1, linestyle=(0, (4, 4)), zorder=1)
    for row, bar in enumerate(bars):
        look = look_of(bar.number - 1)
        paint = PALETTE[look.colour]
        axes.plot(bar.seeds, [row] * len(bar.seeds), linestyle="none", marker="o", markersize=3.2, markeredgewidth=0,
                  color=paint, alpha=0.5, zorder=2)  # fmt: skip
        if bar.value.low is not None and bar.value.high is not None:
            axes.plot([bar.value.low, bar.value.high], [row, row], color=paint, linewidth=1.8, zorder=3)
        axes.plot([bar.value.mean], [row], marker=look.marker, markersize=6, color=paint, zorder=4)
    axes.set_yticks(range(len(bars)), [f"{bar.number} {_cut(bar.name)}" for bar in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.margins(x=0.06)
    if level is None:
        axes.set_xlim(left=0.0)  # a cost: half as long is half as much
    axes.set_xlabel(unit, color=_INK)
    dress_chart(axes, grid="x")
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    return inline_svg(figure, name, description)


def _draw_place(axes: Axes, place: Place, look: Look) -> None:
    paint = PALETTE[look.colour]
    across, up = root_kl(place.kl.mean), place.value.mean
    axes.plot([root_kl(kl) for kl, _ in place.seeds], [value for _, value in place.seeds], linestyle="none",
              marker=look.marker, markersize=3.2, markeredgewidth=0, color=paint, alpha=0.5, zorder=2)  # fmt: skip
    if place.value.low is not None and place.value.high is not None:
        axes.plot([across, across], [place.value.low, place.value.high], color=paint, linewidth=1.3, zorder=3)
    if place.kl.low is not None and place.kl.high is not None:
        ends = [root_kl(place.kl.low), root_kl(place.kl.high)]
        axes.plot(ends, [up, up], color=paint, linewidth=1.3, zorder=3)
    axes.plot([across], [up], marker=look.marker, markersize=7, color=paint, zorder=4)


def _write_labels(figure: Figure, axes: Axes, labels: Sequence[PointLabel]) -> None:
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        # The reader's fonts show the text; that the font it is measured with lacks a letter is no matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.canvas.draw()  # settles the layout, which the places of the labels depend on
        place_labels(axes, labels)
        written = [text for text in axes.texts if isinstance(text, Annotation)]
        for text in written:
            text.set_path_effects([])  # a halo of white, which a dark page would show; the page gives its own
            _move_apart(axes, text, [other for other in written if other is not text])
        for text in written:
            if math.hypot(*text.get_position()) > _FAR:
                axes.annotate(
                    "", text.xy, xytext=text.get_position(), textcoords="offset points",
                    arrowprops={"arrowstyle": "-", "color": text.get_color(), "linewidth": 0.6, "shrinkB": 3},
                )  # fmt: skip


def _move_apart(axes: Axes, text: Annotation, others: Sequence[Annotation]) -> None:
    """Take a label that covers another one further from its point, to where there is room."""
    taken = [other.get_window_extent() for other in others]
    if not text.get_window_extent().count_overlaps(taken):
        return
    frame, before = axes.get_window_extent(), text.get_position()
    for reach in _FURTHER:
        for step in range(_DIRECTIONS):
            turn = 2 * math.pi * step / _DIRECTIONS
            text.set_position((reach * math.cos(turn), reach * math.sin(turn)))
            box = text.get_window_extent()
            inside = frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1)
            if inside and not box.count_overlaps(taken):
                return
    text.set_position(before)


def _cut(name: str) -> str:
    return name if len(name) <= _LABEL else name[: _LABEL - 1] + "…"


def described(values: Sequence[tuple[str, str]]) -> str:
    """Names with their numbers, in words."""
    return "; ".join(f"{name}: {value}" for name, value in values)
