"""The last good checkpoint of a run, and the way back to it."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from lit_rlhf.callbacks.staged_checkpoint import remove


class LastGood:
    """Keeps ``checkpoints/last-good-<iterations>.ckpt`` under the trainer's `default_root_dir`.

    An iteration's numbers are those of the weights that it began with. So a checkpoint is good once the iteration
    after it has passed without an alarm; up to then it is a candidate, and an alarm throws it away.

    A file stays while one of the last two checkpoints of the run needs it, so that a run continued from there goes
    back to what the uninterrupted run would go back to.

    Args:
        every: iterations from one to the next.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.name: str | None = None
        """The good one's file."""
        self._candidate: str | None = None
        self._needed: deque[list[str]] = deque(maxlen=2)
        self._saving = False

    def state_dict(self) -> dict[str, Any]:
        """Names of files, which lie beside the checkpoint that this is saved in."""
        return {"name": self.name, "candidate": self._candidate, "needed": [list(n) for n in self._needed]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with these files."""
        self.name, self._candidate = state["name"], state["candidate"]
        self._needed.extend([*state["needed"], self._names()])

    def begin(self, trainer: L.Trainer) -> None:
        """Keep the start, where a run has nothing to go back to yet."""
        here = self.name is not None and (folder_of(trainer) / self.name).exists()
        if not trainer.strategy.reduce_boolean_decision(here, all=True):
            if self.name is not None:
                rank_zero_info(
                    f"{folder_of(trainer) / self.name} is gone; the run as it is now takes its place."
                )
            self.name = file_name(trainer.current_epoch)
            self._save(trainer, self.name)

    def passed(self, trainer: L.Trainer) -> None:
        """An iteration had no alarm: the candidate it began with is good, and its own end may be the next."""
        if self._candidate is not None:
            self.name, self._candidate = self._candidate, None
        if (trainer.current_epoch + 1) % self.every == 0:
            self._candidate = file_name(trainer.current_epoch + 1)
            self._save(trainer, self._candidate)
        self._tidy(trainer)

    def note_saved(self) -> None:
        """A checkpoint of the run is being saved, with this state in it."""
        if not self._saving:
            self._needed.append(self._names())

    def _names(self) -> list[str]:
        return [name for name in (self.name, self._candidate) if name is not None]

    def roll_back(self, trainer: L.Trainer, pl_module: L.LightningModule) -> Path:
        """Weights, optimizer and the module's own state as in the good checkpoint, and nothing else of it.

        Counters, schedules, learning rates and the position in the data stay as they are: the next rollout is
        another one.
        """
        self._candidate = None
        path = folder_of(trainer) / str(self.name)
        trainer.strategy.barrier("roll back")
        # before the checkpoint: some strategies put it into the optimizers at once
        rates = [[dict(group) for group in optimizer.param_groups] for optimizer in trainer.optimizers]
        checkpoint = trainer.strategy.load_checkpoint(path, weights_only=True)
        pl_module.on_load_checkpoint(checkpoint)
        trainer.strategy.load_model_state_dict(checkpoint, strict=pl_module.strict_loading)
        trainer.strategy.load_optimizer_state_dict(checkpoint)
        for optimizer, groups in zip(trainer.optimizers, rates, strict=True):
            for group, before in zip(optimizer.param_groups, groups, strict=True):
                group.update({name: value for name, value in before.items() if name != "params"})
        return path

    def _save(self, trainer: L.Trainer, name: str) -> None:
        path = folder_of(trainer) / name
        beside = path.with_name(f"{name}.partial")
        self._saving = True
        try:
            trainer.save_checkpoint(beside, weights_only=False)
        finally:
            self._saving = False
        if trainer.is_global_zero:
            if path.is_dir() or beside.is_dir():  # a sharded checkpoint; a file is replaced at once
                remove(path)
            os.replace(beside, path)
        trainer.strategy.barrier("last good checkpoint")

    def _tidy(self, trainer: L.Trainer) -> None:
        needed = {name for names in (self._names(), *self._needed) for name in names}
        if trainer.is_global_zero:
            for file in folder_of(trainer).glob("last-good-*.ckpt"):
                if file.name not in needed:
                    remove(file)


def file_name(iterations: int) -> str:
    """The file's name after so many iterations."""
    return f"last-good-{iterations}.ckpt"


def folder_of(trainer: L.Trainer) -> Path:
    """Where the run's checkpoints are."""
    return Path(trainer.default_root_dir) / "checkpoints"
