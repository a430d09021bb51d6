"""What two runs of the same data must have in common, whatever their ranks."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tests.ranks.runs import Run

TOLERANCE = 1e-5
"""Of losses, and of weights under plain gradient descent; sums in another order differ by 1e-7."""

OF_THE_LAST_MICRO_BATCH = (
    "train/perplexity",
    "logps/",
    "rewards/",
    "policy/",
    "value/loss",
    "value/clip_fraction",
)
OF_TIME = ("perf/", "time/")


def weights_differ(one: Run, other: Run) -> float:
    """The largest difference of two exported weights."""
    assert one.weights.keys() == other.weights.keys()
    return max(float(np.abs(weight - other.weights[name]).max()) for name, weight in one.weights.items())


def moved(run: Run, start: str = "model") -> float:
    """The largest change of a weight since the start: the scale for differences."""
    before = load_file(run.folder.parent / start / "model.safetensors")
    return max(
        float(np.abs(weight - before[name]).max()) for name, weight in run.weights.items() if name in before
    )


def losses_differ(one: Run, other: Run) -> float:
    """The largest difference of two training losses; of every update there is one."""
    ours, theirs = one.curve("train/loss"), other.curve("train/loss")
    assert list(ours) == list(theirs) == list(range(len(ours)))
    return max(abs(loss - theirs[step]) for step, loss in ours.items())


def numbers_that_differ(one: Run, other: Run, tolerance: float = TOLERANCE) -> dict[str, tuple[Any, Any]]:
    """The last logged numbers that are over all ranks and still not the same, by name."""
    ours, theirs = one.metrics, other.metrics
    return {
        name: (ours.get(name), theirs.get(name))
        for name in sorted(ours.keys() | theirs.keys())
        if not name.startswith((*OF_TIME, *OF_THE_LAST_MICRO_BATCH))
        and not is_same(ours.get(name), theirs.get(name), tolerance)
    }


def is_same(one: Any, other: Any, tolerance: float = TOLERANCE) -> bool:
    """Whether two plain values are one, numbers in them to the tolerance."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(is_same(one[name], other[name], tolerance) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(
            is_same(*pair, tolerance) for pair in zip(one, other, strict=True)
        )
    if not isinstance(one, float) or not isinstance(other, float):
        return bool(one == other)
    return abs(one - other) <= tolerance * max(1.0, abs(one)) or (isnan(one) and isnan(other))
