"""Names beside points in a figure, placed so that they hide neither a point, a line nor one another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox


@dataclass(frozen=True)
class PointLabel:
    """A short text that belongs to a point of the data."""

    x: float
    y: float
    text: str
    colour: str
    emphasised: bool = False
    """Bold and larger, and placed before those that are not."""


# Where a label may stand, from the best place on: distance from the point in points (1/72 inch), and
# the corner or side of the text that faces it.
_PLACES = [
    (across * reach, up * reach, horizontal, vertical)
    for reach in (9.0, 17.0, 28.0)
    for across, up, horizontal, vertical in (
        (0.0, 1.0, "center", "bottom"),
        (1.0, 0.0, "left", "center"),
        (0.0, -1.0, "center", "top"),
        (-1.0, 0.0, "right", "center"),
        (0.75, 0.75, "left", "bottom"),
        (0.75, -0.75, "left", "top"),
        (-0.75, 0.75, "right", "bottom"),
        (-0.75, -0.75, "right", "top"),
    )
]


def place_labels(axes: Axes, labels: Sequence[PointLabel]) -> None:
    """Write each label where it hides least of what is drawn, of the labels before it, and of the edge.

    The layout must be settled (the canvas drawn once) and must not change afterwards.
    """
    obstacles = _drawn_points(axes)
    taken: list[Bbox] = []
    for label in sorted(labels, key=lambda label: not label.emphasised):
        annotation = _write(axes, label)
        costs = [
            _cost(axes, _box(axes, annotation, place), math.hypot(*place[:2]), obstacles, taken)
            for place in _PLACES
        ]
        taken.append(_box(axes, annotation, _PLACES[costs.index(min(costs))]))


def _write(axes: Axes, label: PointLabel) -> Annotation:
    return axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=(0, 0),
        textcoords="offset points",
        color=label.colour,
        fontsize=11 if label.emphasised else 9,
        fontweight="bold" if label.emphasised else "normal",
        path_effects=[withStroke(linewidth=3, foreground="white")],
        zorder=4,
        annotation_clip=False,
    )


def _box(axes: Axes, annotation: Annotation, place: tuple[float, float, str, str]) -> Bbox:
    """Move the label to `place`; what it covers there, in pixels."""
    across, up, horizontal, vertical = place
    annotation.set_position((across, up))
    annotation.set(horizontalalignment=horizontal, verticalalignment=vertical)
    annotation.set(multialignment="left" if horizontal == "left" else "right")
    return annotation.get_window_extent()


def _cost(axes: Axes, box: Bbox, distance: float, obstacles: np.ndarray, taken: Sequence[Bbox]) -> float:
    """How bad a place is: other labels weigh most, then the edge, what is drawn, the way to the point."""
    padded = box.padded(2)
    hidden = int(
        ((obstacles >= (padded.x0, padded.y0)) & (obstacles <= (padded.x1, padded.y1))).all(axis=1).sum()
    )
    overlaps = sum(box.padded(5).overlaps(other) for other in taken)
    frame = axes.get_window_extent()
    outside = not (frame.x0 <= box.x0 and box.x1 <= axes.figure.bbox.x1 and frame.y0 <= box.y0)
    return 1000.0 * overlaps + 300.0 * outside + hidden + distance / 4


def _drawn_points(axes: Axes) -> np.ndarray:
    """Points along everything that is drawn, in pixels, ``[n, 2]``: each line's every 4 pixels; markers."""
    pieces = []
    for line in axes.get_lines():
        corners = line.get_transform().transform(line.get_xydata())
        for first, second in pairwise(corners):
            steps = 2 + int(np.hypot(*(second - first)) / 4)
            pieces.append(np.linspace(first, second, steps))
        if line.get_marker() != "None":
            reach = line.get_markersize() / 72 * axes.figure.dpi / 2
            ring = reach * np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)])
            pieces.extend(corner + ring for corner in corners)
    legend = axes.get_legend()
    if legend is not None:
        box = legend.get_window_extent()
        across, up = np.meshgrid(np.arange(box.x0, box.x1, 4), np.arange(box.y0, box.y1, 4))
        pieces.append(np.column_stack([across.ravel(), up.ravel()]))
    return np.concatenate(pieces) if pieces else np.empty((0, 2))
