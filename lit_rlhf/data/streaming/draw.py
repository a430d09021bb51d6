"""How often each tree comes in an epoch where files have weights and trees are too many for lists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lit_rlhf.data.streaming.permutation import draw_keys


@dataclass
class _Weighted:
    """The trees of all files of one weight."""

    members: NDArray[np.int64] | range
    """Their numbers; those that are drawn once more by length, the longest first."""
    times: int
    """How often each is drawn."""
    extra: int
    """How many of them are drawn once more."""

    @property
    def slots(self) -> int:
        return len(self.members) * self.times + self.extra


class StreamDraw:
    """The trees of an epoch as numbered slots: every tree once, or as often as its weight says.

    A weight's fraction is that share of the trees with this weight: these are cut by length into as many runs as are
    to be drawn, and one of each run is drawn anew in every epoch. So an epoch's tokens hardly change. It is one tree
    at the least: a single row of weight 0.4 comes in every epoch.

    Args:
        sizes: Tokens of each tree, ``[n]``.
        parts: (trees, weight) of the files, one after another.
    """

    def __init__(self, sizes: NDArray[np.int32], parts: Sequence[tuple[int, float]]) -> None:
        self.sizes = sizes
        self._classes: list[_Weighted] = []
        starts = np.cumsum([0, *(count for count, _ in parts)])
        for weight in sorted({weight for _, weight in parts}):
            ranges = [
                range(start, start + count)
                for start, (count, own) in zip(starts.tolist(), parts)
                if own == weight
            ]
            count = sum(map(len, ranges))
            fraction = weight - int(weight)
            extra = max(math.ceil(fraction * count - 0.5), math.ceil(fraction)) if count else 0
            members: NDArray[np.int64] | range = ranges[0]
            if len(ranges) > 1 or extra:
                members = np.concatenate([np.arange(part.start, part.stop) for part in ranges])
            if extra:
                members = np.asarray(members)[np.argsort(-sizes[members], kind="stable")]
            self._classes.append(_Weighted(members, int(weight), extra))
        self.count = sum(one.slots for one in self._classes)
        """Slots, which are the trees of an epoch; as many in every epoch."""

    def bounds(self) -> NDArray[np.int32]:
        """Sizes of the slots that their trees do not exceed in any epoch, ``[count]``."""
        bounds: list[NDArray[np.int32]] = []
        for one in self._classes:
            own = (
                self.sizes[one.members.start : one.members.stop]
                if isinstance(one.members, range)
                else (self.sizes[one.members])
            )
            bounds += [own] * one.times
            if one.extra:
                bounds.append(own[_starts(len(own), one.extra)[:-1]])
        return np.concatenate(bounds) if len(bounds) != 1 else bounds[0]

    def trees(self, slots: NDArray[np.integer], key: int) -> NDArray[np.int64]:
        """The trees in these slots of the epoch that `key` stands for, ``[n]``."""
        trees = np.empty(len(slots), dtype=np.int64)
        start = 0
        for one in self._classes:
            here = np.flatnonzero((slots >= start) & (slots < start + one.slots))
            places = slots[here].astype(np.int64) - start
            drawn = places - len(one.members) * one.times
            again = drawn >= 0
            if again.any():
                runs = _starts(len(one.members), one.extra)
                low, high = runs[drawn[again]], runs[drawn[again] + 1]
                keys = draw_keys(key, start + drawn[again])
                places[again] = low + (keys % (high - low).astype(np.uint64)).astype(np.int64)
            places[~again] %= max(1, len(one.members))
            members = one.members
            trees[here] = places + members.start if isinstance(members, range) else members[places]
            start += one.slots
        return trees


def _starts(count: int, runs: int) -> NDArray[np.int64]:
    """Where each of so many about equally long runs begins, and the end."""
    return np.arange(runs + 1, dtype=np.int64) * count // runs
