"""How far a fit is, in lines for a log: what the progress bar is for a terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from time import monotonic
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from lit_rlhf.callbacks import TrainingBudget

SECONDS_BETWEEN = 30
"""At most one line in so many seconds, but for the one after each validation."""

NOTHING: Mapping[str, Any] = {}

VALIDATED = re.compile(r"val(id(ation)?)?(?![a-z])")
"""How the names of a validation's numbers begin; ``value/loss`` is none of them."""


class Pace:
    """How long the rest of a fit takes, at the pace so far."""

    def __init__(self) -> None:
        self._start = 0.0
        self._first_batch = 0
        self._epoch_start = (0.0, 0)
        self._spent_before = 0.0

    def start(self, trainer: L.Trainer) -> None:
        """The training begins, or goes on."""
        self._start = monotonic()
        self._first_batch = batches_done(trainer)  # not 0 in a run that continues another
        self._epoch_start = self._start, self._first_batch
        budget = budget_of(trainer)
        self._spent_before = budget.spent if budget else 0.0

    def start_epoch(self, trainer: L.Trainer) -> None:
        """An epoch begins."""
        self._epoch_start = monotonic(), batches_done(trainer)

    def seconds_left(self, trainer: L.Trainer, pl_module: L.LightningModule) -> float | None:
        """Of the whole fit; None while there is no telling."""
        ends = (self._seconds_of_batches(trainer, pl_module), self._seconds_of_budget(trainer))
        return min((seconds for seconds in ends if seconds is not None), default=None)

    def _seconds_of_budget(self, trainer: L.Trainer) -> float | None:
        """Until a :class:`TrainingBudget` is spent: its clock may be another, and stands while a fit validates."""
        budget = budget_of(trainer)
        if budget is None or budget.seconds is None or budget.spent <= self._spent_before:
            return None
        pace = (monotonic() - self._start) / (budget.spent - self._spent_before)
        return max(0.0, pace * (budget.seconds - budget.spent))

    def _seconds_of_batches(self, trainer: L.Trainer, pl_module: L.LightningModule) -> float | None:
        """Until the last epoch or update."""
        now, total = monotonic(), batches_of_fit(trainer)
        # A rollout lies before an iteration's first batch, so only whole iterations show the pace.
        whole = draws_rollouts(pl_module)
        measured_at, measured = self._epoch_start if whole else (now, batches_done(trainer))
        if measured <= self._first_batch or not math.isfinite(total):
            return None
        pace = (measured_at - self._start) / (measured - self._first_batch)
        return max(0.0, pace * (total - measured) - (now - measured_at))

    def say_left(self, trainer: L.Trainer, pl_module: L.LightningModule) -> str:
        """``about 3 min left``, or nothing."""
        seconds = self.seconds_left(trainer, pl_module)
        return "" if seconds is None else f"about {duration(seconds)} left"


class ProgressLines(ProgressBar):
    """A line now and then: epoch, batches or rollout, the numbers that a bar would show, and the time left of the fit.

    It takes the progress bar's place in the trainer, so there is never both. Numbers are those logged with
    ``prog_bar=True``, and after a validation all of the validation's. Rank 0 speaks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True
        self._spoke = 0.0
        self._pace = Pace()

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._spoke = monotonic()
        self._pace.start(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._pace.start_epoch(trainer)

    def on_rollout_progress(
        self, trainer: L.Trainer, pl_module: L.LightningModule, done: int, total: int
    ) -> None:
        """`done` of `total` responses of this rank's rollout are finished."""
        if monotonic() - self._spoke >= SECONDS_BETWEEN:
            self._speak(trainer, pl_module, f"rollout {done}/{total} responses")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if monotonic() - self._spoke >= SECONDS_BETWEEN:
            self._speak(trainer, pl_module, batch_of_epoch(trainer))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._speak(trainer, pl_module, batch_of_epoch(trainer), trainer.callback_metrics)

    def _speak(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        place: str,
        validated: Mapping[str, Any] = NOTHING,
    ) -> None:
        if not self.enabled:
            return
        self._spoke = monotonic()
        shown = {
            name: value
            for name, value in trainer.progress_bar_metrics.items()
            if not VALIDATED.match(name) and isinstance(value, int | float)
        }
        shown |= {name: float(value) for name, value in validated.items() if VALIDATED.match(name)}
        parts = [epoch_of_fit(trainer, pl_module), place, *(f"{name} {v:.4g}" for name, v in shown.items())]
        left = self._pace.say_left(trainer, pl_module)
        self.print(", ".join([*parts, *([left] if left else [])]), flush=True)


def epoch_of_fit(trainer: L.Trainer, pl_module: L.LightningModule) -> str:
    """``epoch 2/3``, or ``iteration 2/3`` where the epochs are PPO's."""
    unit = "iteration" if draws_rollouts(pl_module) else "epoch"
    return f"{unit} {trainer.current_epoch + 1}{of(trainer.max_epochs)}"


def batch_of_epoch(trainer: L.Trainer) -> str:
    """``batch 3/6``."""
    return f"batch {trainer.fit_loop.batch_idx + 1}{of(trainer.num_training_batches)}"


def draws_rollouts(pl_module: L.LightningModule) -> bool:
    """Whether an epoch of the module is an iteration: a rollout and its updates."""
    return hasattr(pl_module, "rollout_loader")


def batches_done(trainer: L.Trainer) -> int:
    """Batches trained on since the run's beginning, those before a checkpoint included."""
    return trainer.fit_loop.total_batch_idx + 1


def budget_of(trainer: L.Trainer) -> TrainingBudget | None:
    """What ends the fit after so many seconds; None where nothing does."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set by its callback connector
    budgets = [one for one in callbacks if isinstance(one, TrainingBudget) and one.seconds is not None]
    return min(budgets, key=lambda one: one.seconds or math.inf, default=None)


def batches_of_fit(trainer: L.Trainer) -> float:
    """Batches of the whole fit; infinite where nothing limits it."""
    limits = [math.inf]
    if trainer.max_epochs not in (None, -1):
        limits.append(trainer.max_epochs * trainer.num_training_batches)
    if trainer.max_steps != -1:
        limits.append(trainer.max_steps * trainer.accumulate_grad_batches)
    return min(limits)


def of(total: float | None) -> str:
    """``/total``, or nothing where there is no end."""
    return f"/{total}" if total is not None and 0 <= total < math.inf else ""


def duration(seconds: float) -> str:
    """A time in two units at the most.

    >>> [duration(seconds) for seconds in (0.4, 59.6, 150, 8000)]
    ['0 s', '1 min', '2 min', '2 h 13 min']
    """
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
