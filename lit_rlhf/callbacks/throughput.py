"""Tokens trained on by the seconds that took."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lit_rlhf.records import ExperienceBatch, ResponseTrees


class Throughput(Callback):
    """Logs `perf/tokens_per_second`: tokens trained on, over all ranks, by the seconds of the training steps.

    Waiting for the next batch counts; rollouts, validation and what else lies between epochs do not. The mean
    runs over the last `window` batches.
    """

    def __init__(self, window: int = 20) -> None:
        self._recent: deque[tuple[int, float]] = deque(maxlen=window)
        self._since: float | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        tokens = count_tokens(batch)
        if tokens is None or self._since is None:
            return
        now = time.perf_counter()
        self._recent.append((tokens, now - self._since))
        self._since = now
        trained, seconds = (sum(column) for column in zip(*self._recent))
        # ranks that compute layers together have the same tokens
        distinct = getattr(pl_module, "data_ranks", trainer.world_size) / trainer.world_size
        pl_module.log(
            "perf/tokens_per_second",
            distinct * trained / max(seconds, 1e-9),
            sync_dist=trainer.world_size > 1,
            reduce_fx="sum",
            batch_size=1,
        )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = None

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = None


def count_tokens(batch: Any) -> int | None:
    """Tokens of a batch, prompts and responses together; None for a batch of another shape."""
    if isinstance(batch, ExperienceBatch):
        batch = batch.trees
    if isinstance(batch, ResponseTrees):
        return batch.input_ids.numel()
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
    return ids.numel() if isinstance(ids, Tensor) else None
