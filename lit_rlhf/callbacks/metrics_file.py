"""The last value of every logged scalar, in one file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lit_rlhf.callbacks.writing import write_beside_and_rename


class MetricsFile(Callback):
    """The last value of every logged scalar in one JSON file, written after each validation and at the end.

    A number that is not finite stands there as null, because JSON has no word for it.

    Args:
        path: the file; a relative path starts at the trainer's `default_root_dir`.
    """

    def __init__(self, path: str | Path = "metrics.json") -> None:
        self.path = Path(path)
        self.values: dict[str, float] = {}
        self._trainer: L.Trainer | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._trainer = trainer

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._trainer = None

    def state_dict(self) -> dict[str, Any]:
        # A checkpoint of an epoch's end is saved after the module has logged for it, and after this callback's hook.
        if self._trainer is not None and self._trainer.training:
            self._collect(self._trainer)
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

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # A finished run that is continued trains nothing, yet its file may be missing.
        if self.values:
            # `max_steps` leaves `current_epoch` behind.
            progress: Any = trainer.fit_loop.epoch_progress.current
            self.values["epoch"] = progress.processed
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
