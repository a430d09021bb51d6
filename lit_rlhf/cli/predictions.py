"""Predictions as JSONL, in the order of the data, whole or not at all."""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import lightning as L
from lightning.pytorch.callbacks import Callback


class PredictionsFile(Callback):
    """Writes what `predict_step` returns, a list of plain dicts a batch, one line each.

    Every rank writes a part beside the file; at the end rank 0 puts them together, batch by batch, and renames
    (several machines need a folder that all of them see).

    Args:
        path: the file; a relative path starts at the trainer's `default_root_dir`.
    """

    def __init__(self, path: str | Path = "predictions.jsonl") -> None:
        self.path = Path(path)
        self._file: TextIO | None = None

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        part = self._part(trainer, trainer.global_rank)
        part.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(part, "w", encoding="utf-8")  # noqa: SIM115  (open over many hooks)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not isinstance(outputs, list) or not all(isinstance(row, dict) for row in outputs):
            raise TypeError(
                f"{type(pl_module).__name__}.predict_step: expected a list of dicts, one per line to write, "
                f"found {type(outputs).__name__}"
            )
        assert self._file is not None
        for row in outputs:
            # The batch's number stands before the line until the parts are put together.
            self._file.write(f"{dataloader_idx} {batch_idx} {json.dumps(row, ensure_ascii=False)}\n")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()
        trainer.strategy.barrier("predictions written")
        if trainer.is_global_zero:
            parts = [self._part(trainer, rank) for rank in range(trainer.world_size)]
            merge_parts(parts, Path(trainer.default_root_dir) / self.path)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        if self._file is not None:
            self._close()
            self._part(trainer, trainer.global_rank).unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _part(self, trainer: L.Trainer, rank: int) -> Path:
        target = Path(trainer.default_root_dir) / self.path
        return target.with_name(f"{target.name}.rank{rank}.partial")


def merge_parts(parts: Sequence[Path], target: Path) -> None:
    """The ranks' parts as one file, by batch and then by rank; the parts are removed."""
    whole = target.with_name(f"{target.name}.{os.getpid()}.partial")
    with open(whole, "w", encoding="utf-8") as file:
        streams = [_numbered_lines(part, rank) for rank, part in enumerate(parts)]
        file.writelines(line for _, line in heapq.merge(*streams, key=lambda pair: pair[0]))
    os.replace(whole, target)
    for part in parts:
        part.unlink()


def _numbered_lines(part: Path, rank: int) -> Iterator[tuple[tuple[int, int, int], str]]:
    with open(part, encoding="utf-8") as file:
        for line in file:
            loader, batch, content = line.split(" ", 2)
            yield (int(loader), int(batch), rank), content
