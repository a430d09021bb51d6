"""Reference log-probabilities computed once for every row, so that no second model is held while training."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.records import ResponseTrees, Tree

BATCH = 32
"""Rows in one forward."""


class ReferenceCache:
    """log π_ref(y|x) of every response of every row, by split and row number."""

    def __init__(self) -> None:
        self._logprobs: dict[str, Tensor] = {}
        self._starts: dict[str, Tensor] = {}
        self._fingerprints: dict[str, int] = {}

    def holds(self, split: str, trees: list[Tree]) -> bool:
        """Whether the split was looked at, and these are still its rows."""
        return split in self and self._fingerprints[split] == _fingerprint(trees)

    def __contains__(self, split: str) -> bool:
        return split in self._logprobs

    @torch.no_grad()
    def fill(
        self,
        split: str,
        trees: list[Tree],
        sequence_logprobs: Callable[[ResponseTrees], Tensor],
        device: torch.device,
        rank: int,
        world_size: int,
    ) -> None:
        """Look at all rows of a split, each rank at its share.

        Args:
            split: the name they are asked for by.
            trees: the rows, in the order that batches number them.
            sequence_logprobs: a batch to log π_ref(y|x), ``[N]``.
            device: where the reference is.
            rank: this process.
            world_size: how many there are.
        """
        mine = []
        # Every rank does the same number of forwards, which a sharded reference needs.
        for start in range(0, len(trees), BATCH * world_size):
            share = trees[start + rank : start + BATCH * world_size : world_size]
            logprobs = sequence_logprobs(pack_trees(share or trees[:1]).to(device)).float().cpu()
            if share:
                mine.extend(logprobs.split([len(tree.response_ids) for tree in share]))
        shares: list[Any] = [mine]
        if world_size > 1:
            shares = [None] * world_size
            torch.distributed.all_gather_object(shares, mine)
        rows = [shares[index % world_size][index // world_size] for index in range(len(trees))]
        lengths = torch.tensor([0, *(len(tree.response_ids) for tree in trees)])
        self._logprobs[split] = torch.cat(rows)
        self._starts[split] = lengths.cumsum(0)[:-1]
        self._fingerprints[split] = _fingerprint(trees)

    def look_up(self, split: str, batch: ResponseTrees) -> Tensor:
        """What was computed for the batch's responses, ``[N]``, on the batch's device.

        Raises:
            ValueError: the batch's rows carry no number, so they cannot be found.
        """
        if (batch.row_indices < 0).any():
            raise ValueError(
                "reference_storage: precomputed needs rows numbered by the data modules of lit_rlhf; "
                "set model.reference_storage to frozen for batches of your own."
            )
        counts = torch.bincount(batch.tree_index, minlength=batch.num_trees).tolist()
        starts = self._starts[split][batch.row_indices.cpu()].tolist()
        parts = [
            self._logprobs[split][start : start + count] for start, count in zip(starts, counts, strict=True)
        ]
        return torch.cat(parts).to(batch.input_ids.device)

    def state_dict(self) -> dict[str, Any]:
        """Plain values: part of the checkpoint, since the policy has moved from the reference by then."""
        return {"logprobs": self._logprobs, "starts": self._starts, "fingerprints": self._fingerprints}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._logprobs, self._starts = state["logprobs"], state["starts"]
        self._fingerprints = state["fingerprints"]


def _fingerprint(trees: list[Tree]) -> int:
    """A number that changes with any token of the rows."""
    return zlib.crc32(json.dumps([[tree.prompt_ids, tree.response_ids] for tree in trees]).encode())
