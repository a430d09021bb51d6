"""Which trees make up which batch of an epoch, for all ranks at once.

Everything drawn here depends on (seed, epoch) alone, so a resumed run draws what it would have drawn.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from lit_rlhf.data.draw import EpochDraw

Batch: TypeAlias = list[int]
"""Places of trees in the data set."""

_OPEN_BATCHES = 8
"""How far a tree may move from its place in the file where batches are filled in the file's order."""
_DISORDER = (0.5, 0.25, 0.0)
"""How far the dealing of trees is from the longest first, tried in turn until the batches hold their budget:
0.5 lets a tree be dealt as if it were half as long. More is more variety of batches, and less even ones."""
_SLACK = (0.0, 0.01, 0.02, 0.03, 0.05, 0.08, 0.13, 0.21, 0.34, 0.55, 0.89)
"""Room left in the batches of an epoch on average, tried in turn until an epoch can be dealt out."""


class EpochPlan:
    """The batches of every epoch, as many on every rank and in every epoch.

    With `batch_size` a global batch is the next so many trees of the epoch's order, whatever the number of
    ranks; they are dealt to the ranks by length, so that all have as many trees (give or take one) and about
    as many tokens. The last batch has what is left; with fewer trees than ranks it joins the one before.

    With `max_tokens` every rank takes batches of its own. Lightning asks for their number once, so it is
    settled once, from the lengths and the seed, and every epoch is dealt out anew into exactly that many
    (:class:`TokenDeal`), so that all batches hold long and short trees and nearly the same number of tokens.

    Without `shuffle` trees stay in the file's order: exactly with `batch_size`; with `max_tokens` up to a few
    batches, which are filled side by side and are then the same in every epoch.

    An epoch holds every tree once, or as often as its weight says, but for one case: so few fit together that
    every batch is one tree, and the ranks cannot share these evenly. With `shuffle` the last ones of the epoch's
    order, fewer than there are ranks, are then left out. Without it, as in validation and prediction, nothing may
    be: the shortest are joined, over the budget if need be.

    Args:
        sizes: Tokens of each tree, at most `max_tokens`.
        batch_size: Trees of a global batch; or
        max_tokens: tokens of one rank's batch.
        seed: With the epoch's number, decides everything that is drawn.
        shuffle: Whether the order is drawn at all.
        world_size: How many ranks share the plan.
        weights: Per tree, how often it is drawn an epoch: the whole part always; the fraction is that share of
            the trees with this weight, spread over their lengths, and others in another epoch (the same ones
            with `max_tokens` and without `shuffle`).
    """

    def __init__(
        self,
        sizes: Sequence[int],
        batch_size: int | None = None,
        max_tokens: int | None = None,
        *,
        seed: int = 0,
        shuffle: bool = True,
        world_size: int = 1,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.sizes = sizes
        self.batch_size, self.max_tokens = batch_size, max_tokens
        self.seed, self.shuffle, self.world_size = seed, shuffle, world_size
        self._draw = EpochDraw(sizes, weights)
        self.trees_an_epoch = len(self._draw.longest())
        """Trees of an epoch over all ranks, with those that cannot be shared out among them."""
        self._in_order: list[Batch] | None = None
        self._deal: TokenDeal | None = None
        self.num_batches = self._settle()
        """Batches of an epoch on each rank; 0 where it has fewer trees than there are ranks."""

    @property
    def num_left_out(self) -> int:
        """Trees that no rank has in an epoch."""
        if self._deal is None or not self._deal.is_one_tree_a_batch:
            return 0
        return self.trees_an_epoch - self.num_batches * self.world_size

    def shares(self, epoch: int) -> list[list[Batch]]:
        """Each rank's batches of an epoch, `num_batches` of them."""
        if self.max_tokens is None:
            batches = self._batches_of_trees(epoch)
            dealt = [deal_evenly(batch, self.sizes, self.world_size) for batch in batches]
            return [[shares[rank] for shares in dealt] for rank in range(self.world_size)]
        if self._in_order is not None:
            batches = self._in_order
        else:
            assert self._deal is not None
            batches = self._batches_of_tokens(epoch, self._deal)
        batches = batches[: self.num_batches * self.world_size]
        return [batches[rank :: self.world_size] for rank in range(self.world_size)]

    def _batches_of_trees(self, epoch: int) -> list[Batch]:
        assert self.batch_size is not None
        generator = generator_of(self.seed, epoch)
        drawn = self._draw.trees(generator)
        if self.shuffle:
            drawn = [drawn[place] for place in torch.randperm(len(drawn), generator=generator).tolist()]
        batches = [drawn[start : start + self.batch_size] for start in range(0, len(drawn), self.batch_size)]
        if len(batches) > 1 and len(batches[-1]) < self.world_size:
            # A rank without a tree would wait for the others for ever, or they for it.
            batches[-2:] = [batches[-2] + batches[-1]]
        return batches

    def _settle(self) -> int:
        """How many batches an epoch has on each rank."""
        if self.max_tokens is None:
            return 0 if self.trees_an_epoch < self.world_size else len(self._batches_of_trees(0))
        if self.shuffle:
            self._deal = TokenDeal(self._draw.longest(), self.max_tokens, self.world_size, self.seed)
            return self._deal.count // self.world_size
        batches = _fill(self._draw.trees(generator_of(self.seed, 0)), self.sizes, self.max_tokens)
        self._in_order = _join_until_divisible(
            _split_until_divisible(batches, self.world_size), self.sizes, self.world_size
        )
        return len(self._in_order) // self.world_size

    def _batches_of_tokens(self, epoch: int, deal: TokenDeal) -> list[Batch]:
        generator = generator_of(self.seed, epoch)
        drawn = self._draw.trees(generator)
        dealt = deal.batches([self.sizes[index] for index in drawn], generator)
        return [[drawn[place] for place in batch] for batch in dealt]


class TokenDeal:
    """A fixed number of batches of at most `max_tokens`, for many lists of trees that one bounds.

    Their number is settled with the longest sizes that may come, and every list is dealt anew into exactly that
    many: longer trees roughly first, each to the batch with the fewest tokens. In the rare list where that goes over
    the budget, the dealing that settled the number is repeated with trees of the same or lesser length.

    Args:
        longest: Sizes that those of no list exceed, when both are sorted and compared one by one.
        max_tokens: Tokens of a batch, at least the largest size.
        multiple: What the number of batches is to be a multiple of.
        seed: Decides the dealing that settles the number.
        fewest: Trees of the shortest list; by default as many as there are in `longest`, and at most one less.
    """

    def __init__(
        self, longest: Sequence[int], max_tokens: int, multiple: int, seed: int, fewest: int | None = None
    ) -> None:
        self.max_tokens = max_tokens
        self._slots: list[int] | None = None
        self.count = self._settle(longest, multiple, seed, len(longest) if fewest is None else fewest)
        """Batches of a list."""

    @property
    def is_one_tree_a_batch(self) -> bool:
        """Whether so few trees fit together that every batch is one tree, and what `count` lacks is left out."""
        return self._slots is None

    def batches(self, sizes: Sequence[int], generator: torch.Generator) -> list[Batch]:
        """Places of a list in batches, in random order; `count` of them but for one tree a batch."""
        if self._slots is None:
            return [[place] for place in torch.randperm(len(sizes), generator=generator).tolist()]
        for disorder in _DISORDER:
            order = _roughly_longest_first(torch.tensor(sizes), disorder, generator)
            batches = _level(sizes, order, self.count, self.max_tokens)
            if batches is not None:
                break
        else:
            batches = [[] for _ in range(self.count)]
            for slot, place in zip(self._slots, order):
                batches[slot].append(place)
            _leave_none_empty(batches)
        return [batches[number] for number in torch.randperm(self.count, generator=generator).tolist()]

    def _settle(self, longest: Sequence[int], multiple: int, seed: int, fewest: int) -> int:
        sizes = torch.tensor(longest, dtype=torch.long)
        order = _roughly_longest_first(sizes, _DISORDER[0], generator_of(seed, -1))
        most = fewest // multiple * multiple
        tried = 0
        for slack in _SLACK:
            needed = math.ceil(sum(longest) / self.max_tokens / (1 - slack) / multiple) * multiple
            needed = min(needed, most)
            batches = None if needed == tried else _level(longest, order, needed, self.max_tokens)
            if batches is not None:
                batch_of = torch.empty(len(longest), dtype=torch.long)
                for number, batch in enumerate(batches):
                    batch_of[batch] = number
                self._slots = batch_of[sizes.argsort(descending=True)].tolist()
                return needed
            tried = needed
        return most  # one tree a batch


def _leave_none_empty(batches: list[Batch]) -> None:
    """A list of one tree less than the longest may leave a batch without any; it gets one of the fullest batch."""
    for batch in batches:
        if not batch:
            batch.append(max(batches, key=len).pop())


def generator_of(seed: int, epoch: int) -> torch.Generator:
    """What draws for this seed and epoch."""
    # Neighbouring seeds and epochs do not collide.
    return torch.Generator().manual_seed((seed * 0x9E3779B1 + epoch * 0x85EBCA77 + 1) % 2**63)


def _roughly_longest_first(sizes: torch.Tensor, disorder: float, generator: torch.Generator) -> list[int]:
    """Places by falling size, each size times a random number from 1 - disorder to 1; ties in random order."""
    noise = torch.rand(len(sizes), generator=generator, dtype=torch.double)
    # Under one token's worth of noise is left where order is asked for: it decides among equal sizes.
    keys = sizes * (1 - disorder * noise) if disorder else sizes + noise
    return keys.argsort(descending=True).tolist()


def _level(sizes: Sequence[int], order: Sequence[int], count: int, max_tokens: int) -> list[Batch] | None:
    """Places in the given order, each into the one of `count` batches with the fewest tokens; None where one of
    them would go over `max_tokens`."""
    batches: list[Batch] = [[] for _ in range(count)]
    # One number each, tokens * count + batch: a heap of pairs takes twice the time.
    fewest = list(range(count))
    over = (max_tokens + 1) * count
    for place in order:
        grown = fewest[0] + sizes[place] * count
        if grown >= over:
            return None
        batches[grown % count].append(place)
        heapq.heapreplace(fewest, grown)
    return batches


def deal_evenly(batch: Batch, sizes: Sequence[int] | NDArray[np.int32], world_size: int) -> list[Batch]:
    """A global batch shared out: rounds of one tree a rank, the longest first, the longest of a round to the
    rank with the fewest tokens. Within a rank trees keep the order of the batch."""
    if world_size == 1:
        return [batch]
    places = sorted(range(len(batch)), key=lambda place: -sizes[batch[place]])
    tokens = [0] * world_size
    shares: list[list[int]] = [[] for _ in range(world_size)]
    for start in range(0, len(places), world_size):
        ranks = sorted(range(world_size), key=tokens.__getitem__)
        for rank, place in zip(ranks, places[start : start + world_size], strict=False):
            tokens[rank] += sizes[batch[place]]
            shares[rank].append(place)
    return [[batch[place] for place in sorted(share)] for share in shares]


def _fill(drawn: Sequence[int], sizes: Sequence[int], max_tokens: int) -> list[Batch]:
    """In the given order: each tree into the first open batch with room, a few batches open at a time."""
    done: list[Batch] = []
    opened: list[tuple[int, Batch]] = []
    for index in drawn:
        size = sizes[index]
        for place, (room, batch) in enumerate(opened):
            if size <= room:
                batch.append(index)
                opened[place] = (room - size, batch)
                break
        else:
            opened.append((max_tokens - size, [index]))
            if len(opened) > _OPEN_BATCHES:
                done.append(opened.pop(0)[1])
    return done + [batch for _, batch in opened]


def _split_until_divisible(batches: list[Batch], world_size: int) -> list[Batch]:
    """Halve the batches of most trees until every rank can have as many; single trees stay as they are."""
    while len(batches) % world_size and max(map(len, batches)) > 1:
        place = max(range(len(batches)), key=lambda place: len(batches[place]))
        batch = batches[place]
        batches[place : place + 1] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
    return batches


def _join_until_divisible(batches: list[Batch], sizes: Sequence[int], world_size: int) -> list[Batch]:
    """Join the two batches of fewest tokens until every rank can have as many."""
    while len(batches) % world_size and len(batches) > world_size:
        by_tokens = sorted(
            range(len(batches)), key=lambda place: sum(sizes[index] for index in batches[place])
        )
        first, second = sorted(by_tokens[:2])
        batches[first] = batches[first] + batches.pop(second)
    return batches
