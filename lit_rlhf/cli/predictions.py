"""Predictions as JSONL, in the order of the data, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import lightning as L
from lightning.pytorch.callbacks import Callback

from lit_rlhf.data.ranks import data_rank


class PredictionsFile(Callback):
    """Writes what `predict_step` returns, a list of plain dicts a batch, one line each.

    Every rank writes a part beside the file; at the end rank 0 puts them together and renames (several machines
    need a folder that all of them see). Lines go by the batch's `row_indices` where it has them; else batch by
    batch, whose rows the ranks are taken to have dealt out in turn.

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
        indices = batch.row_indices.tolist() if hasattr(batch, "row_indices") else []
        by_row = len(indices) == len(outputs) and min(indices, default=-1) >= 0
        for number, row in enumerate(outputs):
            # Where the line belongs stands before it until the parts are put together.
            place = f"{indices[number]} 0" if by_row else f"{batch_idx} {number}"
            self._file.write(f"{dataloader_idx} {place} {json.dumps(row, ensure_ascii=False)}\n")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()
        trainer.strategy.barrier("predictions written")
        if trainer.is_global_zero:
            parts = [self._part(trainer, rank) for rank in range(trainer.world_size)]
            # ranks that compute layers together, which stand side by side, have written the same
            distinct = parts[:: trainer.world_size // data_rank(trainer)[1]]
            merge_parts(distinct, Path(trainer.default_root_dir) / self.path)
            for part in parts:
                part.unlink(missing_ok=True)

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
    """The ranks' parts as one file, by the places that stand before the lines and then by rank; removes the parts."""
    whole = target.with_name(f"{target.name}.{os.getpid()}.partial")
    with ExitStack() as opened, open(whole, "wb") as file:
        streams = [opened.enter_context(open(part, "rb")) for part in parts]
        # Places alone are held in memory, the lines are fetched again.
        places = sorted(place for rank, part in enumerate(streams) for place in _places(part, rank))
        for *_, rank, start in places:
            streams[rank].seek(start)
            file.write(streams[rank].readline())
    os.replace(whole, target)
    for part in parts:
        part.unlink()


def _places(part: BinaryIO, rank: int) -> Iterator[tuple[int, ...]]:
    """For each line its three numbers, the rank, and where its content starts."""
    end = 0
    for line in part:
        loader, first, second, content = line.split(b" ", 3)
        end += len(line)
        yield int(loader), int(first), int(second), rank, end - len(content)
