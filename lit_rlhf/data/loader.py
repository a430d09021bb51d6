"""Batches of trees in an order that (seed, epoch) alone decide, and that can be taken up at any row."""

from __future__ import annotations

import logging
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lit_rlhf.data.plan import plan_epoch
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.records import ResponseTrees, Tree

_logger = logging.getLogger(__name__)


class TreeLoader:
    """A sized iterable of :class:`~lit_rlhf.records.ResponseTrees`, one epoch per iteration.

    The plan is made for all ranks at once, so every rank sees the same number of batches. Each global batch
    of `batch_size` prompts is shared out as ``batch[rank::world_size]``; a last one with fewer prompts than
    ranks joins the one before. With `max_tokens` every rank takes batches of its own.

    Lightning passes an iterable that is not a ``DataLoader`` through as it is, asks for its length once,
    and saves and restores its state.

    Args:
        trees: All trees of the split, on every rank.
        batch_size: Prompts of a batch, over all ranks. Either this or `max_tokens`.
        max_tokens: Tokens of a batch on one rank, prompts and responses together.
        seed: Seeds the order.
        shuffle: Whether each epoch has an order of its own.
        rank: Of this process.
        world_size: Processes in all.
        epoch: Says which epoch is about to begin.
        weights: Per tree, how often it is drawn an epoch; whole parts always, the rest for a share of the
            trees of that weight that changes from epoch to epoch.
        name: What the trees are, for messages.

    Raises:
        ValueError: not exactly one of the two sizes is given, a batch is smaller than the number of ranks,
            there are fewer trees than ranks, or a tree alone is over `max_tokens`.
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
        if (batch_size is None) == (max_tokens is None):
            raise ValueError("expected either batch_size or max_tokens, found both or neither")
        if batch_size is not None and batch_size < world_size:
            raise ValueError(
                f"batch_size: expected at least one prompt a rank ({world_size}), found {batch_size}"
            )
        if len(trees) < world_size:
            raise ValueError(
                f"{name}: expected at least as many rows as ranks ({world_size}), found {len(trees)}; "
                "give more rows, or lower trainer.devices"
            )
        if max_tokens is not None:
            for tree in trees:
                if tree.num_tokens > max_tokens:
                    raise ValueError(
                        f"{tree.id}: {tree.num_tokens} tokens, over data.max_tokens = {max_tokens}; "
                        "raise it, or lower data.max_prompt_tokens or data.max_response_tokens"
                    )
        self.trees = trees
        self.batch_size, self.max_tokens = batch_size, max_tokens
        self.seed, self.shuffle = seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch = epoch
        self.weights = None if weights is None or all(weight == 1 for weight in weights) else weights
        self._sizes = [tree.num_tokens for tree in trees]
        self._length = len(self.plan(0))
        if not self._length or not all(self._plan_of(world_size - 1, 0)):
            raise ValueError(f"the weights in data.path leave fewer rows than ranks ({world_size}) an epoch")
        self._say_left_out()
        self._current_epoch = 0
        self._position = 0
        self._content: int | None = None
        self._resume: tuple[int, int] | None = None

    def __len__(self) -> int:
        """Batches of an epoch on each rank; the same for every rank and epoch."""
        return self._length

    def __iter__(self) -> Iterator[ResponseTrees]:
        epoch, start = self._resume or (self.epoch(), 0)
        self._resume = None
        self._current_epoch, self._position = epoch, start
        for batch in self.plan(epoch)[start:]:
            # Counted before the batch is handed out: a state saved while it is trained on is behind it.
            self._position += 1
            yield pack_trees([self.trees[index] for index in batch], batch)

    def plan(self, epoch: int) -> list[list[int]]:
        """This rank's batches of an epoch, as indices into the trees."""
        return self._plan_of(self.rank, epoch)

    def _plan_of(self, rank: int, epoch: int) -> list[list[int]]:
        return plan_epoch(
            self._sizes,
            self.batch_size,
            self.max_tokens,
            seed=self.seed,
            epoch=epoch,
            shuffle=self.shuffle,
            rank=rank,
            world_size=self.world_size,
            weights=self.weights,
        )

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
        if differ:
            raise ValueError(
                "the checkpoint cannot be continued at its row with this data: "
                + "; ".join(f"{name} was {state.get(name)} and is {mine[name]}" for name in differ)
                + ". Give the same data and settings, or start from the export instead"
            )
        self._current_epoch, self._position = state["epoch"], state["position"]
        self._resume = (state["epoch"], state["position"]) if state["position"] else None

    def _say_left_out(self) -> None:
        """Say so where batches of one tree each cannot be shared out evenly over the ranks."""
        taken = sum(len(batch) for rank in range(self.world_size) for batch in self._plan_of(rank, 0))
        wanted = len(self.trees) if self.weights is None else taken
        if taken < wanted and not self.rank:
            _logger.warning(
                "%d of %d rows are left out of each epoch: %d ranks cannot share them evenly",
                wanted - taken,
                wanted,
                self.world_size,
            )

    def _fingerprint(self) -> dict[str, Any]:
        if self._content is None:
            self._content = zlib.crc32(array("d", self.weights or ()).tobytes())
            for tree in self.trees:
                for ids in (tree.prompt_ids, *tree.response_ids):
                    self._content = zlib.crc32(array("q", ids).tobytes(), self._content)
        return {
            "rows": len(self.trees),
            "content": self._content,
            "batches": self._length,
            "batch_size": self.batch_size,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "shuffle": self.shuffle,
        }
