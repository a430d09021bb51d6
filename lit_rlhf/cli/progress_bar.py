"""The progress bar of a terminal: the rollout, then its minibatches, and the time left of the whole fit."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import BatchesProcessedColumn, CustomBarColumn
from rich.progress import Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from lit_rlhf.cli.progress import Pace, epoch_of_fit

TIMES_A_SECOND = 5
NARROW = 110
"""Columns of a terminal below which the bars are short, so that the numbers stay on their line."""


class LeftColumn(TextColumn):
    """What is left of the fit, beside the bar of the epoch."""

    def __init__(self) -> None:
        super().__init__("{task.fields[left]}", style="dim", table_column=Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        """Nothing beside the other bars."""
        return super().render(task) if task.fields.get("left") else Text()


class FitBar(RichProgressBar):
    """Lightning's bar, with the epoch counted from one, the rollout's own bar and the time left of the whole fit.

    Numbers are those logged with ``prog_bar=True``, without the part of their names before the slash where it
    tells nothing apart.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=TIMES_A_SECOND)
        self._pace = Pace()
        self._rollout: TaskID | None = None

    def configure_columns(self, trainer: L.Trainer) -> list[Any]:
        """Name, bar, count, time left; the numbers come behind these."""
        bar = CustomBarColumn(
            bar_width=8 if self._is_narrow() else 24,
            complete_style=self.theme.progress_bar,
            finished_style=self.theme.progress_bar_finished,
            pulse_style=self.theme.progress_bar_pulse,
        )
        count = BatchesProcessedColumn(style=self.theme.batch_progress)
        return [TextColumn("{task.description}", table_column=Column(no_wrap=True)), bar, count, LeftColumn()]

    def _is_narrow(self) -> bool:
        return self._console is not None and self._console.width < NARROW

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._rollout = None
        self._pace.start(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._pace.start_epoch(trainer)
        super().on_train_epoch_start(trainer, pl_module)

    def on_rollout_progress(
        self, trainer: L.Trainer, pl_module: L.LightningModule, done: int, total: int
    ) -> None:
        """`done` of `total` responses of this rank's rollout are finished."""
        if self.progress is None or self.is_disabled:
            return
        if self._rollout is None:
            self._rollout = self._add_task(total, "rollout")
        self.progress.update(self._rollout, completed=done, total=total, visible=done < total)
        self._show_left(trainer, pl_module)
        self.refresh()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._show_left(trainer, pl_module)

    def _show_left(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.progress is not None and self.train_progress_bar_id is not None:
            left = self._pace.say_left(trainer, pl_module).removeprefix("about ")
            self.progress.update(self.train_progress_bar_id, left=left)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """The numbers that are shown, by their short names."""
        numbers = super().get_metrics(trainer, pl_module)
        numbers.pop("v_num", None)
        short = [name.rsplit("/", 1)[-1] for name in numbers]
        return {
            brief if short.count(brief) == 1 and not name.startswith("val") else name: value
            for (name, value), brief in zip(numbers.items(), short)
        }

    def _get_train_description(self, current_epoch: int) -> str:
        return epoch_of_fit(self.trainer, self.trainer.lightning_module)
