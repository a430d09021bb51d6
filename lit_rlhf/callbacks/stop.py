"""A stop that can be resumed."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeAlias

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.utilities import rank_zero_info

from lit_rlhf.callbacks.staged_checkpoint import StagedCheckpoint

Moment: TypeAlias = Literal["update", "last update", "validation", "epoch"]
"""After what the state may be saved: an optimizer update, the last one of an epoch, a validation inside an epoch
or an epoch."""


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
    starts; a validation or an epoch's end that falls due at the step runs first. A second signal stops at once.

    The checkpoint takes its place when its numbers are logged, see :class:`StagedCheckpoint`; the one before
    stays beside it as ``previous.ckpt``.

    To Lightning this is a checkpoint callback: beside it, name your own `ModelCheckpoint` if you want one.

    Args:
        path: the checkpoint's file; None takes ``checkpoints/last.ckpt`` under the trainer's `default_root_dir`.

    Raises:
        GracefulStopped: out of `Trainer.fit`, on every rank.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.requested = False
        self._stopping = False
        self._staged: StagedCheckpoint | None = None
        self._previous: dict[int, Any] = {}

    def wants(self, trainer: L.Trainer, moment: Moment) -> bool:
        """Whether the state is saved now though nobody asked for a stop; the same answer on every rank."""
        return False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _leave_a_finished_epoch(trainer)
        self.requested, self._stopping = False, False
        self._staged = StagedCheckpoint(
            self.path or Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        )
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
        if epoch_ends or _window_is_closed(trainer, batch_idx):
            self._save_if_due(trainer, "last update" if epoch_ends else "update")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # At the last batch the epoch closes first: its logs and schedules belong to it.
        inside_an_epoch = (
            trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.is_last_batch
        )
        if inside_an_epoch and _window_is_closed(trainer, trainer.fit_loop.batch_idx):
            self._save_if_due(trainer, "validation")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save_if_due(trainer, "epoch")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._publish(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._publish(trainer)

    def _save_if_due(self, trainer: L.Trainer, moment: Moment) -> None:
        asked = self.requested
        if trainer.world_size > 1:  # the ranks agree, whichever of them the signal reached
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        self._stopping = self._stopping or asked
        if self._staged is not None and (self.wants(trainer, moment) or self._stopping):
            self._staged.stage(trainer)

    def _publish(self, trainer: L.Trainer) -> None:
        if self._staged is not None:
            self._staged.publish(trainer)
            if self._stopping:
                raise GracefulStopped(self._staged.path)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stopping = False  # a stop at the very end is a finished run
        self._publish(trainer)
        self._restore_handlers()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._restore_handlers()
        if self._staged is not None and self._staged.waiting:
            if isinstance(exception, KeyboardInterrupt) and self._stopping:
                # Asked twice, while an epoch closes: better its numbers lost than its updates.
                self._staged.publish(trainer)
            elif trainer.is_global_zero:
                self._staged.discard()


def _leave_a_finished_epoch(trainer: L.Trainer) -> None:
    """Have a run continued from an epoch's end begin the next one.

    Under `max_steps` Lightning would take the epoch for an unfinished one and go through it again.
    """
    loop = trainer.fit_loop
    progress: Any = loop.epoch_progress
    if loop.restarting and progress.current.ready == progress.current.started == progress.current.processed:
        progress.current.completed = progress.current.processed
        progress.total.completed = progress.total.processed
        _Loop.restarting.fset(loop, False)  # type: ignore[attr-defined]  # its own setter would keep it, for `max_steps`
        loop.reset_restart_stage()
        loop.epoch_loop.reset_restart_stage()


def _window_is_closed(trainer: L.Trainer, batch_idx: int) -> bool:
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0
