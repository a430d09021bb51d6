"""Which trees make up which batch where they are too many to write an epoch's order down.

Any batch of any epoch is computed alone: from the lengths of all trees, four bytes each, and from (seed, epoch).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lit_rlhf.data.plan import Batch, TokenDeal, deal_evenly, generator_of
from lit_rlhf.data.streaming.draw import StreamDraw
from lit_rlhf.data.streaming.permutation import draw_key, draw_keys, permute

TREES_A_WINDOW = 16_384
"""Trees that are dealt into batches together under a budget of tokens."""


class StreamPlan:
    """The batches of every epoch, as many on every rank and in every epoch, in an order drawn over all trees.

    With `batch_size` a global batch is the next so many trees of the epoch's order, whatever the number of ranks;
    they are dealt to the ranks by length. The last batch has what is left; with fewer trees than ranks it joins the
    one before.

    With `max_tokens` an epoch is cut into windows of about `TREES_A_WINDOW` trees over all ranks. Each has its share
    of the trees of every length, drawn anew each epoch, so that all windows of all epochs fill the same number of
    batches; these go to the ranks in turn. The same trees share a batch on any number of ranks that divides the
    number of windows; with others every tree still comes once an epoch, in other company.

    An epoch holds every tree once, or as often as its weight says, but for one case: under `max_tokens`, where so few
    fit together that every batch is one tree, what the ranks cannot share evenly is left out.

    Args:
        sizes: Tokens of each tree, ``[n]``; at most `max_tokens`.
        batch_size: Trees of a global batch; or
        max_tokens: tokens of one rank's batch.
        seed: With the epoch's number, decides everything that is drawn.
        shuffle: Whether the order is drawn at all; without it trees come in the file's order.
        world_size: How many ranks share the plan.
        parts: (trees, weight) of the files, one after another: how often a tree is drawn an epoch, as
            :class:`~lit_rlhf.data.streaming.draw.StreamDraw` has it. By default once.
        trees_a_window: For tests.

    Raises:
        ValueError: without `shuffle`, weights or a budget of tokens.
    """

    def __init__(
        self,
        sizes: NDArray[np.int32],
        batch_size: int | None = None,
        max_tokens: int | None = None,
        *,
        seed: int = 0,
        shuffle: bool = True,
        world_size: int = 1,
        parts: Sequence[tuple[int, float]] | None = None,
        trees_a_window: int = TREES_A_WINDOW,
    ) -> None:
        parts = [(len(sizes), 1.0)] if parts is None else parts
        if not shuffle and (max_tokens is not None or any(weight != 1 for _, weight in parts)):
            found = "data.max_tokens" if max_tokens is not None else "weights in data.path"
            raise ValueError(
                f"data.streaming: {found} goes with data.shuffle true, found false; for the file's order give "
                "data.batch_size and files without weights"
            )
        self.sizes = sizes
        self.batch_size, self.max_tokens = batch_size, max_tokens
        self.seed, self.shuffle, self.world_size = seed, shuffle, world_size
        self._draw = StreamDraw(sizes, parts)
        self.trees_an_epoch = self._draw.count
        """Trees of an epoch over all ranks, with those that cannot be shared out among them."""
        self._deal: TokenDeal | None = None
        self._by_size: NDArray[np.int64] | None = None
        self._windows = 1
        self.num_batches = self._settle(trees_a_window)
        """Batches of an epoch on each rank; 0 where it has fewer trees than there are ranks."""

    @property
    def num_left_out(self) -> int:
        """Trees that no rank has in an epoch."""
        if self._deal is None or not self._deal.is_one_tree_a_batch:
            return 0
        return self.trees_an_epoch - self.num_batches * self.world_size

    def batches(self, epoch: int, rank: int, start: int = 0) -> Iterator[Batch]:
        """One rank's batches of an epoch, from the `start`-th on; what comes before is not computed."""
        if self.max_tokens is None:
            for number in range(start, self.num_batches):
                batch = self._batch_of_trees(epoch, number)
                yield deal_evenly(batch, self.sizes, self.world_size)[rank]
            return
        assert self._deal is not None
        a_window = self._deal.count
        begin, end = start * self.world_size + rank, self.num_batches * self.world_size
        for window in range(begin // a_window, self._windows):
            first = window * a_window
            batches = self._window(epoch, window, self._deal)
            taken = range(begin - first, min(len(batches), end - first), self.world_size)
            yield from (batches[number] for number in taken)
            begin += len(taken) * self.world_size

    def _settle(self, trees_a_window: int) -> int:
        """How many batches an epoch has on each rank."""
        count = self.trees_an_epoch
        if count < self.world_size:
            return 0
        if self.max_tokens is None:
            assert self.batch_size is not None
            full, left = divmod(count, self.batch_size)
            return full + (left >= self.world_size or not full)
        bounds = self._draw.bounds()
        # Of ten million trees, lengths sort in a second, and half of the memory is let go at once.
        self._by_size = np.argsort(-bounds, kind="stable").astype(np.int32 if count < 2**31 else np.int64)
        windows = max(1, count // trees_a_window)
        self._windows = windows - windows % self.world_size if windows >= self.world_size else windows
        # In each run of so many neighbours by length every window has one, so none has more of a length than the
        # first ones of all runs; only the last run may be too short for all.
        multiple = self.world_size // math.gcd(self._windows, self.world_size)
        longest = bounds[self._by_size[:: self._windows]].tolist()
        fewest = count // self._windows
        self._deal = TokenDeal(longest, self.max_tokens, multiple, self.seed, fewest)
        return self._deal.count * self._windows // self.world_size

    def _batch_of_trees(self, epoch: int, number: int) -> Batch:
        """A global batch; the last one with those that would not suffice for a batch on every rank."""
        assert self.batch_size is not None
        stop = self.trees_an_epoch if number + 1 == self.num_batches else (number + 1) * self.batch_size
        places = np.arange(number * self.batch_size, stop, dtype=np.int64)
        if self.shuffle:
            places = permute(places, self.trees_an_epoch, draw_key(self.seed, epoch))
        return self._draw.trees(places, draw_key(self.seed, epoch, 1)).tolist()

    def _window(self, epoch: int, window: int, deal: TokenDeal) -> list[Batch]:
        """The batches of one window over all ranks."""
        assert self._by_size is not None
        runs = np.arange(-(-self.trees_an_epoch // self._windows), dtype=np.int64)
        keys = draw_keys(draw_key(self.seed, epoch), runs)
        chosen = runs * self._windows + permute(np.full_like(runs, window), self._windows, keys)
        slots = self._by_size[chosen[chosen < self.trees_an_epoch]]
        trees = self._draw.trees(slots, draw_key(self.seed, epoch, 1))
        generator = generator_of(self.seed, draw_key(epoch, window))
        dealt = deal.batches(self.sizes[trees].tolist(), generator)[: deal.count]
        numbers = trees.tolist()
        return [[numbers[place] for place in batch] for batch in dealt]
