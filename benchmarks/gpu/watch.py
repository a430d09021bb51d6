"""A callback that measures a fit of the command line, and saves a checkpoint in its middle."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from benchmarks.speed.meter import _memory_mb as process_memory_mb
from lit_rlhf.callbacks import ExportAtEnd, write_beside_and_rename


class Watch(Callback):
    """Seconds, lengths and losses of updates, and the most memory of training; written when the fit is over.

    Args:
        path: the JSON file that is written.
        warm: updates before the clock.
        save_at: the update behind which a checkpoint is saved; 0 = none.
        checkpoint: its file.
    """

    def __init__(self, path: str, warm: int = 1, save_at: int = 0, checkpoint: str | None = None) -> None:
        self.path, self.warm, self.save_at, self.checkpoint = Path(path), warm, save_at, checkpoint
        self.updates: list[dict[str, Any]] = []
        self._batches: list[Any] = []
        self._since = 0.0
        self._begun: float | None = None
        self._first = 0

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set by its callback connector
        for export in [each for each in callbacks if isinstance(each, ExportAtEnd)]:
            callbacks.remove(export)  # gigabytes that nobody reads

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self._first = trainer.global_step
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, index: int) -> None:
        if not self._batches:
            self._since = self._now()
            if len(self.updates) == self.warm:
                self._begun = self._since
        trees = getattr(batch, "trees", batch)
        self._batches.append(_lengths(trees))

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        if trainer.global_step == self._done:
            return  # inside an accumulation window
        self.updates.append(
            {
                "step": trainer.global_step,
                "seconds": self._now() - self._since,
                "loss": float(outputs["loss"]),
                "trees": [tree for batch in self._batches for tree in batch],
            }
        )
        self._batches = []
        if trainer.global_step == self.save_at and self.checkpoint is not None:
            trainer.save_checkpoint(self.checkpoint)

    @property
    def _done(self) -> int:
        return self.updates[-1]["step"] if self.updates else self._first

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        cuda = torch.cuda.is_available()
        found = {
            "first_step": self._first,
            "updates": self.updates,
            "warm": self.warm,
            "seconds_in_all": None if self._begun is None else self._now() - self._begun,
            "peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
            "reserved_bytes": torch.cuda.max_memory_reserved() if cuda else None,
            "process_mb": process_memory_mb("VmHWM"),
            "device": torch.cuda.get_device_name() if cuda else "cpu",
        }
        write_beside_and_rename(self.path, json.dumps(found) + "\n")

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


def _lengths(trees: Any) -> list[tuple[int, list[int]]]:
    """Of each prompt, and of its responses."""
    found: list[tuple[int, list[int]]] = [(length, []) for length in trees.prompt_lengths]
    for tree, length in zip(trees.tree_index.tolist(), trees.response_lengths, strict=True):
        found[tree][1].append(length)
    return found
