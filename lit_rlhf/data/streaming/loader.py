"""Batches of trees that are read, tokenized and packed when their turn comes, by other processes if asked."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from lit_rlhf.data.loader import PlannedLoader, check_sizes
from lit_rlhf.data.streaming.ahead import computed_ahead
from lit_rlhf.data.streaming.plan import StreamPlan
from lit_rlhf.data.streaming.split import StreamedSplit
from lit_rlhf.data.streaming.streamed import Stream
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.records import ResponseTrees


class StreamLoader(PlannedLoader):
    """A streamed split as :class:`~lit_rlhf.data.loader.TreeLoader` has one in memory.

    A rank reads its own rows only. The state counts the batches that were handed out, whatever the processes have
    read ahead; going on from it reads nothing of what came before.

    Args:
        split: The measured files.
        batch_size: Prompts of a batch, over all ranks. Either this or `max_tokens`.
        max_tokens: Tokens of a batch on one rank, prompts and responses together.
        seed: Seeds the order.
        shuffle: Whether each epoch has an order of its own; else that of the files.
        rank: Of this process, among those that get different data.
        world_size: How many of these there are.
        epoch: Says which epoch is about to begin.
        workers: Processes that compute ahead; they change nothing but the time.
        name: What the trees are, for messages.

    Raises:
        ValueError: see :func:`~lit_rlhf.data.loader.check_sizes` and :class:`~lit_rlhf.data.streaming.plan.StreamPlan`.
    """

    def __init__(
        self,
        split: StreamedSplit,
        batch_size: int | None = None,
        max_tokens: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        epoch: Callable[[], int] = lambda: 0,
        workers: int = 0,
        name: str = "data",
    ) -> None:
        self.stream, self.split, self.workers = split.stream, split, workers
        check_sizes(len(self.stream), batch_size, max_tokens, world_size, name)
        plan = StreamPlan(
            self.stream.sizes(),
            batch_size,
            max_tokens,
            seed=seed,
            shuffle=shuffle,
            world_size=world_size,
            parts=split.parts,
        )
        super().__init__(plan, shuffle, rank, world_size, epoch)

    def batches(self, epoch: int, start: int) -> Iterator[ResponseTrees]:
        assert isinstance(self._plan, StreamPlan)
        planned = self._plan.batches(epoch, self.rank, start)
        return computed_ahead(partial(_pack, self.stream), planned, self.workers)

    def describe(self) -> str:
        """How an epoch under a budget of tokens is cut: its batches, and how full they are."""
        tokens, start = 0.0, 0
        for count, weight in self.split.parts:
            tokens += weight * float(self._plan.sizes[start : start + count].sum())  # type: ignore[union-attr]
            start += count
        return self._describe(tokens)

    def content(self) -> dict[str, Any]:
        weights = array("d", (number for part in self.split.parts for number in part))
        content = zlib.crc32(weights.tobytes(), self.split.content)
        return {"rows": len(self.stream), "content": content, "streaming": True}


def _pack(stream: Stream, batch: list[int]) -> ResponseTrees:
    return pack_trees(stream.planted(batch)[1], batch)
