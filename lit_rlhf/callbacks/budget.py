"""Training for so many seconds, and how many it took."""

from __future__ import annotations

import time
from typing import Any, Literal, TypeAlias

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

Clock: TypeAlias = Literal["cpu", "wall"]

CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


class TrainingBudget(Callback):
    """Ends a fit once so many seconds were spent in training, and logs how many were.

    Training begins with what a module prepares in `on_fit_start`, such as precomputed reference log-probabilities,
    and rollouts belong to it. Validation and checkpoints do not: from either to the next batch or epoch the clocks
    stand. A fit ends at the first optimizer step after the budget is spent, on all ranks together as soon as one of
    them has spent it, and is then a finished one: it is validated, exported and not gone on with unless by a larger
    budget. `min_epochs` and `min_steps` of the trainer win over the budget.

    The seconds are in checkpoints, so that a fit which was stopped goes on counting.

    Logs `time/training_seconds` and `time/training_cpu_seconds`, whichever the clock is; with several ranks the
    largest of theirs.

    Args:
        seconds: the budget, on each rank; None = no end, the seconds are counted all the same.
        clock: ``cpu`` counts processor seconds of this process over all its threads, as
            :func:`time.process_time` does, so that other work on the machine takes nothing away; ``wall`` the time
            that passes, which is what to take where an accelerator computes.

    Raises:
        ValueError: a budget that is not positive, or another clock.
    """

    def __init__(self, seconds: float | None = None, clock: Clock = "cpu") -> None:
        if seconds is not None and not seconds > 0:
            raise ValueError(f"TrainingBudget.seconds: expected more than 0, found {seconds}.")
        if clock not in CLOCKS:
            raise ValueError(f"TrainingBudget.clock: expected cpu or wall, found {clock!r}.")
        self.seconds, self.clock = seconds, clock
        self._before = dict.fromkeys(CLOCKS, 0.0)
        self._since: dict[str, float] | None = None
        self._at_start = 0.0
        self._said = False

    @property
    def spent(self) -> float:
        """Seconds spent in training so far, on the budget's clock."""
        return self._read()[self.clock]

    def state_dict(self) -> dict[str, Any]:
        """What both clocks show now."""
        return self._read()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting from there."""
        self._before, self._since = {name: float(state_dict[name]) for name in CLOCKS}, None

    # --- when the clocks run ----------------------------------------------------------------------------

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._said, self._at_start = False, self.spent
        self._run()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._run()
        self._end_if_spent(trainer, self._at_start)  # a finished fit is not begun again

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._run()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._run()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._pause()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._pause()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._pause()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._pause()

    def _run(self) -> None:
        if self._since is None:
            self._since = {name: clock() for name, clock in CLOCKS.items()}

    def _pause(self) -> None:
        self._before, self._since = self._read(), None

    def _read(self) -> dict[str, float]:
        if self._since is None:
            return dict(self._before)
        return {name: self._before[name] + clock() - self._since[name] for name, clock in CLOCKS.items()}

    # --- what comes of it -------------------------------------------------------------------------------

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        seconds, ranks = self._read(), trainer.world_size > 1
        for name, value in (
            ("time/training_seconds", seconds["wall"]),
            ("time/training_cpu_seconds", seconds["cpu"]),
        ):
            pl_module.log(name, value, sync_dist=ranks, reduce_fx="max", batch_size=1)
        # gradients of a half-filled accumulation window would be lost
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._end_if_spent(trainer, seconds[self.clock])

    def _end_if_spent(self, trainer: L.Trainer, spent: float) -> None:
        if self.seconds is None:
            return
        is_spent = spent >= self.seconds
        if trainer.world_size > 1:
            is_spent = trainer.strategy.reduce_boolean_decision(is_spent, all=False)
        if not is_spent:
            return
        trainer.should_stop = True
        if not self._said:
            self._said = True
            kind = "CPU seconds" if self.clock == "cpu" else "seconds"
            asks = [
                f"trainer.{name} {least}"
                for name, least, done in (
                    ("min_epochs", trainer.min_epochs, trainer.current_epoch),
                    ("min_steps", trainer.min_steps, trainer.global_step),
                )
                if least and done < least
            ]
            until = f", and goes on for {' and '.join(asks)}" if asks else ""
            rank_zero_info(
                f"Training has had its {self.seconds:g} {kind} ({spent:.1f}) after {trainer.global_step} "
                f"updates{until}."
            )
