"""Callbacks that any Lightning project can take: a stop that can be resumed, export at the end, tables, throughput."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lit_rlhf.records import ExperienceBatch, ResponseTrees

CELL_LENGTH = 600
"""Characters of a sample table's cell; the rest is cut and marked."""


class GracefulStopped(SystemExit):
    """Training stopped on a signal, with a checkpoint to continue from. Exit code 130."""

    def __init__(self, checkpoint: str | Path) -> None:
        super().__init__(130)
        self.checkpoint = Path(checkpoint)


class GracefulStop(Checkpoint):
    """On Ctrl-C or SIGTERM: finish the optimizer step, save a checkpoint, raise :class:`GracefulStopped`.

    A run continued from that checkpoint goes on at the next row, as if it had not been stopped, provided that
    its loader has `state_dict` and `load_state_dict`. `Trainer.should_stop` is not used: it would count the
    epoch as finished. The exception comes once the step's numbers are logged, which is when the next batch
    starts; a validation or an epoch's end that falls due at the step runs first, with the checkpoint already
    on disk, and is then saved too. A second signal stops at once.

    To Lightning this is a checkpoint callback: beside it, name your own `ModelCheckpoint` if you want one.

    Args:
        path: the checkpoint's file; None takes ``checkpoints/last.ckpt`` under the trainer's `default_root_dir`.

    Raises:
        GracefulStopped: out of `Trainer.fit`, on every rank.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.requested = False
        self._saved_to: Path | None = None
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.requested, self._saved_to = False, None
        if threading.current_thread() is not threading.main_thread():
            return  # signals reach the main thread only; whoever runs a trainer beside it stops it himself
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            self._restore_handlers()
            raise KeyboardInterrupt
        self.requested = True
        rank_zero_info("\nStopping after this optimizer step, with a checkpoint; once more stops at once.")

    def _restore_handlers(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        epoch_ends = trainer.is_last_batch or batch_idx + 1 == trainer.num_training_batches
        # Gradients of a half-filled window are in no checkpoint.
        if epoch_ends or (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._save_if_asked(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # At the last batch the epoch closes first: its logs and schedules belong to it.
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.is_last_batch:
            self._save_if_asked(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save_if_asked(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._leave_if_saved()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._leave_if_saved()

    def _save_if_asked(self, trainer: L.Trainer) -> None:
        asked = self.requested
        if trainer.world_size > 1:  # the ranks agree, whichever of them the signal reached
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            path = self.path or Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
            trainer.save_checkpoint(path, weights_only=False)
            self._saved_to = path

    def _leave_if_saved(self) -> None:
        if self._saved_to is not None:
            raise GracefulStopped(self._saved_to)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore_handlers()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._restore_handlers()


class ExportAtEnd(Callback):
    """When a fit is finished, write the module's last weights as a folder that the next phase takes.

    With LoRA the folder holds the merged weights, and ``<directory>-adapter`` the adapter alone.

    Args:
        directory: where to; a relative path starts at the trainer's `default_root_dir`.
    """

    def __init__(self, directory: str | Path = "export") -> None:
        self.directory = Path(directory)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Not on_train_end: a finished run that is continued trains nothing, yet its export may be missing.
        target = Path(trainer.default_root_dir) / self.directory
        if trainer.is_global_zero:  # the ranks hold the same weights, and one folder
            export: Any = pl_module.export
            export(target)
        trainer.strategy.barrier("exported")
        adapter = getattr(pl_module, "adapter", None) is not None
        beside = f", merged; the adapter alone to {target}-adapter" if adapter else ""
        rank_zero_info(f"Exported to {target}{beside}")


class MetricsFile(Callback):
    """The last value of every logged scalar in one JSON file, written after each validation and at the end.

    A number that is not finite stands there as null, because JSON has no word for it.

    Args:
        path: the file; a relative path starts at the trainer's `default_root_dir`.
    """

    def __init__(self, path: str | Path = "metrics.json") -> None:
        self.path = Path(path)
        self.values: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"values": dict(self.values)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.values = dict(state_dict["values"])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._collect(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._collect(trainer)
            self._write(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit":
            self.values = {}  # a checkpoint brings those of its own run along

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_validation_start(trainer, pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._collect(trainer)
        self._write(trainer)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        if self.values:
            self._write(trainer)

    def _collect(self, trainer: L.Trainer) -> None:
        # callback_metrics forgets between loops, hence the copy.
        for name, value in trainer.callback_metrics.items():
            if isinstance(value, Tensor) and value.numel() == 1:
                self.values[name] = float(value)
        if trainer.state.fn == "fit":
            self.values["epoch"] = trainer.current_epoch
            self.values["step"] = trainer.global_step

    def _write(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero:
            finite = {name: value if math.isfinite(value) else None for name, value in self.values.items()}
            text = json.dumps(dict(sorted(finite.items())), indent=2) + "\n"
            write_beside_and_rename(Path(trainer.default_root_dir) / self.path, text)


class SampleTable(Callback):
    """The module's `sample_table()` in TensorBoard's text tab, after each validation, else after each epoch.

    The module gives a list of rows, ``{column: value}``, or None where it has nothing to show. It is asked on
    every rank, because sampling may need them all; rank 0 writes.

    Args:
        tag: under which the table stands.
    """

    def __init__(self, tag: str = "samples") -> None:
        self.tag = tag
        self._last_step = -1

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._show(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if sum(_as_list(trainer.num_val_batches)) == 0:
            self._show(trainer, pl_module)

    def _show(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        writers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not writers or trainer.global_step == self._last_step or not hasattr(pl_module, "sample_table"):
            return
        self._last_step = trainer.global_step
        ask: Any = pl_module.sample_table
        rows = ask()
        if rows and trainer.is_global_zero:
            for logger in writers:
                logger.experiment.add_text(self.tag, markdown_table(rows), trainer.global_step)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""`rows` as a Markdown table; what would break it is escaped, long cells are cut and marked.

    >>> print(markdown_table([{"prompt": "a|b", "score": 0.5}]))
    | prompt | score |
    | --- | --- |
    | a\|b | 0.500 |
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(name)) for name in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    if len(text) > CELL_LENGTH:
        text = f"{text[:CELL_LENGTH]} … ({len(text) - CELL_LENGTH} more characters)"
    for raw, safe in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        ("\\", "\\\\"),
        ("|", "\\|"),
        ("`", "\\`"),
        ("*", "\\*"),
    ):
        text = text.replace(raw, safe)
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "<br>")


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
        pl_module.log(
            "perf/tokens_per_second",
            trained / max(seconds, 1e-9),
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


def write_beside_and_rename(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, sees the old one or the new one and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
