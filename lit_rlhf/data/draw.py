"""Which trees an epoch has, where files have weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

_BLOCK = 8
"""Neighbours by length among which a weight's fraction is drawn."""


class EpochDraw:
    """Every tree once an epoch, or as often as its weight says.

    A weight's fraction is that share of the trees with this weight, each as likely as another and spread evenly
    over their lengths: so an epoch's tokens hardly change, and neither does how many batches they fill. It is one
    tree at the least: a single row of weight 0.4 comes in every epoch.

    Args:
        sizes: Tokens of each tree.
        weights: Per tree, how often it is drawn; None = once.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float] | None) -> None:
        self.sizes = sizes
        self._weighted = weights is not None
        # Of each weight: its trees from the longest on, how often each is drawn, how many of them once more.
        self._classes: list[tuple[list[int], int, int]] = []
        if weights is not None:
            by_weight: dict[float, list[int]] = {}
            for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
                by_weight.setdefault(weights[index], []).append(index)
            for weight, members in sorted(by_weight.items()):
                # to the nearest, and at least one: rows of a small fraction are rare, and not left out for good
                extra = math.ceil((weight - int(weight)) * len(members) - 0.5)
                extra = max(extra, math.ceil(weight - int(weight)))
                self._classes.append((members, int(weight), extra))

    def trees(self, generator: torch.Generator) -> list[int]:
        """The trees of one epoch in the file's order; there are as many in every epoch."""
        if not self._weighted:
            return list(range(len(self.sizes)))
        drawn: list[int] = []
        for members, times, extra in self._classes:
            drawn += members * times + [members[place] for place in _spread(len(members), extra, generator)]
        return sorted(drawn)

    def longest(self) -> list[int]:
        """Sizes that no epoch exceeds, when both are sorted and compared one by one."""
        if not self._weighted:
            return list(self.sizes)
        longest: list[int] = []
        for members, times, extra in self._classes:
            longest += [self.sizes[index] for index in members * times]
            # The nth one drawn stands at its even distance or later, but for the shuffle in its block.
            block = _block(len(members), extra)
            firsts = [number * len(members) // extra // block * block for number in range(extra)]
            longest += [self.sizes[members[first]] for first in firsts]
        return longest


def _spread(count: int, extra: int, generator: torch.Generator) -> list[int]:
    """`extra` distinct places out of `count`, at even distances but for a shuffle among near neighbours."""
    if not extra:
        return []
    block = torch.arange(count) // _block(count, extra)
    shuffled = (block + torch.rand(count, generator=generator, dtype=torch.double)).argsort()
    start = torch.randint(count, (), generator=generator)
    return shuffled[(torch.arange(extra) * count + start) // extra].tolist()


def _block(count: int, extra: int) -> int:
    return max(_BLOCK, math.ceil(4 * count / max(extra, 1)))
