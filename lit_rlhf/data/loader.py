"""Batches of trees in an order that (seed, epoch) alone decide, and that can be taken up at any row."""

from __future__ import annotations

import logging
import zlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lightning.pytorch.utilities import CombinedLoader

from lit_rlhf.data.lengths import check_budget
from lit_rlhf.data.plan import EpochPlan
from lit_rlhf.data.streaming.plan import StreamPlan
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.records import ResponseTrees, Tree

_logger = logging.getLogger(__name__)


class PlannedLoader(ABC):
    """A sized iterable of :class:`~lit_rlhf.records.ResponseTrees`, one epoch per iteration, taken up at any batch.

    Every rank sees the same number of batches. Lightning passes an iterable that is not a ``DataLoader`` through as
    it is, asks for its length once, and saves and restores its state.

    Args:
        plan: Which trees are in which batch of an epoch.
        shuffle: Whether each epoch has an order of its own.
        rank: Of this process, among those that get different data.
        world_size: How many of these there are.
        epoch: Says which epoch is about to begin.

    Raises:
        ValueError: an epoch has no batch.
    """

    def __init__(
        self,
        plan: EpochPlan | StreamPlan,
        shuffle: bool,
        rank: int,
        world_size: int,
        epoch: Callable[[], int],
    ) -> None:
        self._plan = plan
        self.batch_size, self.max_tokens, self.seed = plan.batch_size, plan.max_tokens, plan.seed
        self.shuffle = shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch = epoch
        self._length = plan.num_batches
        if not self._length:
            raise ValueError(f"the weights in data.path leave fewer rows than ranks ({world_size}) an epoch")
        self._say_left_out()
        self._current_epoch = 0
        self._position = 0
        self._resume: tuple[int, int] | None = None

    @abstractmethod
    def batches(self, epoch: int, start: int) -> Iterator[ResponseTrees]:
        """This rank's batches of an epoch, from the `start`-th on."""

    @abstractmethod
    def content(self) -> dict[str, Any]:
        """What tells these trees from others, in plain values."""

    def __len__(self) -> int:
        """Batches of an epoch on each rank; the same for every rank and epoch."""
        return self._length

    def __iter__(self) -> Iterator[ResponseTrees]:
        epoch, start = self._resume or (self.epoch(), 0)
        self._resume = None
        self._current_epoch, self._position = epoch, start
        for batch in self.batches(epoch, start):
            # Counted before the batch is handed out: a state saved while it is trained on is behind it.
            self._position += 1
            yield batch

    def _describe(self, tokens: float) -> str:
        """How an epoch of so many tokens is cut under a budget: its batches, and how full they are."""
        full = tokens / (self._length * self.world_size * (self.max_tokens or 1))
        ranks = f" on each of {self.world_size} ranks" if self.world_size > 1 else ""
        batches = "1 batch" if self._length == 1 else f"{self._length} batches"
        return f"{batches} an epoch{ranks}, of {self.max_tokens} tokens at the most, {full:.0%} full"

    def state_dict(self) -> dict[str, Any]:
        """Epoch, batches handed out of it (0 at its end), and what the plan was made from."""
        position = self._position % self._length
        return {"epoch": self._current_epoch, "position": position, **self._fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration go on from a saved state.

        Raises:
            ValueError: the state is of other data or another plan; the message says what differs.
        """
        mine = self._fingerprint()
        differ = [name for name in mine if state.get(name) != mine[name]]
        if not state["position"]:  # between epochs another number of ranks may cut them otherwise
            differ = [name for name in differ if name != "batches"]
        if differ:
            ranks = (
                " (under data.max_tokens an epoch is cut for its number of ranks: go on with as many, or from a "
                "checkpoint at an epoch's end)"
                if differ == ["batches"] and self.max_tokens is not None
                else ""
            )
            raise ValueError(
                "the checkpoint cannot be continued at its row with this data: "
                + "; ".join(f"{name} was {state.get(name)} and is {mine[name]}" for name in differ)
                + f"{ranks}. Give the same data and settings, or start from the export instead"
            )
        self._current_epoch, self._position = state["epoch"], state["position"]
        self._resume = (state["epoch"], state["position"]) if state["position"] else None

    def _say_left_out(self) -> None:
        """Say so where batches cannot be shared out evenly over the ranks."""
        if self.rank or not (left_out := self._plan.num_left_out):
            return
        _logger.warning(
            "%d of %d rows are left out of each epoch: %d ranks cannot share them evenly",
            left_out,
            self._plan.trees_an_epoch,
            self.world_size,
        )

    def _fingerprint(self) -> dict[str, Any]:
        return {
            **self.content(),
            "batches": self._length,
            "batch_size": self.batch_size,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "shuffle": self.shuffle,
        }


class TreeLoader(PlannedLoader):
    """Batches of trees in memory; :class:`~lit_rlhf.data.plan.EpochPlan` says which trees are in them, and what is
    left out and when.

    Args:
        trees: All trees of the split, on every rank.
        batch_size: Prompts of a batch, over all ranks. Either this or `max_tokens`.
        max_tokens: Tokens of a batch on one rank, prompts and responses together.
        seed: Seeds the order.
        shuffle: Whether each epoch has an order of its own; else that of `trees`.
        rank: Of this process, among those that get different data.
        world_size: How many of these there are.
        epoch: Says which epoch is about to begin.
        weights: Per tree, how often it is drawn an epoch.
        name: What the trees are, for messages.

    Raises:
        ValueError: not exactly one of the two sizes is given, a batch is smaller than the number of ranks,
            there are fewer trees than ranks, or trees are over `max_tokens` alone.
    """

    def __init__(
        self,
        trees: Sequence[Tree],
        batch_size: int | None = None,
        max_tokens: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        epoch: Callable[[], int] = lambda: 0,
        weights: Sequence[float] | None = None,
        name: str = "data",
    ) -> None:
        check_sizes(len(trees), batch_size, max_tokens, world_size, name)
        if max_tokens is not None:
            check_budget(trees, max_tokens)
        self.trees = trees
        self.weights = None if weights is None or all(weight == 1 for weight in weights) else weights
        self._content: int | None = None
        plan = EpochPlan(
            [tree.num_tokens for tree in trees],
            batch_size,
            max_tokens,
            seed=seed,
            shuffle=shuffle,
            world_size=world_size,
            weights=self.weights,
        )
        super().__init__(plan, shuffle, rank, world_size, epoch)

    def plan(self, epoch: int) -> list[list[int]]:
        """This rank's batches of an epoch, as indices into the trees."""
        assert isinstance(self._plan, EpochPlan)
        return self._plan.shares(epoch)[self.rank]

    def batches(self, epoch: int, start: int) -> Iterator[ResponseTrees]:
        for batch in self.plan(epoch)[start:]:
            yield pack_trees([self.trees[index] for index in batch], batch)

    def describe(self) -> str:
        """How an epoch under a budget of tokens is cut: its batches, and how full they are."""
        weights = self.weights or [1.0] * len(self.trees)
        return self._describe(
            sum(size * weight for size, weight in zip(self._plan.sizes, weights, strict=True))
        )

    def content(self) -> dict[str, Any]:
        if self._content is None:
            self._content = zlib.crc32(array("d", self.weights or ()).tobytes())
            for tree in self.trees:
                for ids in (tree.prompt_ids, *tree.response_ids):
                    self._content = zlib.crc32(array("q", ids).tobytes(), self._content)
        return {"rows": len(self.trees), "content": self._content}


def check_sizes(
    trees: int, batch_size: int | None, max_tokens: int | None, world_size: int, name: str
) -> None:
    """Refuse sizes that no plan can be made with.

    Raises:
        ValueError: not exactly one of the two sizes is given, a batch is smaller than the number of ranks, or there
            are fewer trees than ranks.
    """
    if (batch_size is None) == (max_tokens is None):
        found = "neither" if batch_size is None else f"both ({batch_size} and {max_tokens})"
        raise ValueError(f"expected one of data.batch_size and data.max_tokens, found {found}")
    if batch_size is not None and batch_size < world_size:
        raise ValueError(
            f"data.batch_size: expected at least one prompt a rank ({world_size}), found {batch_size}"
        )
    if trees < world_size:
        raise ValueError(
            f"{name}: expected at least as many rows as ranks ({world_size}), found {trees}; "
            "give more rows, or lower trainer.devices"
        )


class NoLoaders(CombinedLoader):
    """No validation, as Lightning takes it without a warning: no loader, where ``[]`` is one of no length."""

    def __init__(self) -> None:
        super().__init__([], "sequential")

    @property
    def flattened(self) -> list[Any]:
        return []

    @flattened.setter
    def flattened(self, flattened: list[Any]) -> None:
        assert not flattened
