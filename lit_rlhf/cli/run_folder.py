"""The run folder: where it lies, what may not be overwritten, where a run continues."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_rlhf.callbacks import write_beside_and_rename
from lit_rlhf.cli.refusal import near_files, refuse

RUN_VARIABLE = "LIT_RLHF_RUN"
"""Hands the run folder's name, which holds the time, to the processes that Lightning starts for other ranks."""


def this_rank() -> int:
    """The process's rank, as the environment that started it says; 0 where nobody says."""
    return int(getattr(rank_zero_only, "rank", 0) or 0)


def choose_run_folder(asked: str | None, phase: str, command: str, checkpoint: str | None) -> Path:
    """``--out``, or the folder of the checkpoint for what only reads one, or a new ``runs/<phase>-<time>``."""
    if asked:
        return Path(asked)
    if this_rank() and os.environ.get(RUN_VARIABLE):
        return Path(os.environ[RUN_VARIABLE])
    if int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))) > 1:
        refuse(
            "several processes were started from outside (torchrun, srun), so each would name its own run folder.",
            f"Give it: lit-rlhf {command} … --out runs/{phase}",
        )
    if command != "fit" and checkpoint and Path(checkpoint).parent.name == "checkpoints":
        return Path(checkpoint).parent.parent
    name = phase if command == "fit" else f"{phase}-{command}"
    folder = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    while folder.exists():
        number += 1
        folder = folder.with_name(f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{number}")
    return folder


def resolve_checkpoint(asked: str | None, run: Path, out_given: bool, command: str) -> str | None:
    """The checkpoint's path, ``last`` being ``<run>/checkpoints/last.ckpt``; refuses what is not there."""
    if asked is None or asked in ("best", "hpc") or "://" in asked:
        return asked
    if asked == "last":
        if not out_given:
            recent = sorted(
                Path("runs").glob("*/checkpoints/last.ckpt"), key=lambda file: file.stat().st_mtime
            )
            hint = [f"The newest here is --out {recent[-1].parent.parent}"] if recent else []
            refuse("--ckpt_path last needs --out DIR: the run folder whose checkpoint is meant.", *hint)
        path = run / "checkpoints" / "last.ckpt"
        if not path.exists():
            refuse(
                f"--ckpt_path last: {path} is not there.",
                *near_files(str(path)),
                "Leave --ckpt_path out to start afresh, or give --out the folder of the run to continue."
                if command == "fit"
                else "Give --out the folder of the run that is meant.",
            )
        return str(path)
    if not Path(asked).exists():
        refuse(f"--ckpt_path {asked}: no such file.", *near_files(asked))
    return asked


def refuse_overwriting(run: Path, checkpoint: str | None) -> None:
    """Refuse a new fit into the folder of an earlier one: its checkpoints would be lost."""
    found = sorted((run / "checkpoints").glob("*.ckpt"))
    if checkpoint is None and found and this_rank() == 0:
        refuse(
            f"{run} holds the checkpoints of an earlier run ({found[0].name}).",
            "Continue it with --ckpt_path last, or give another folder with --out.",
        )


def steps_taken(checkpoint: str | None) -> int | None:
    """Optimizer updates in a checkpoint, where TensorBoard's curves go on; None without one."""
    if checkpoint is None or not Path(checkpoint).exists():
        return None
    path = Path(checkpoint) / "meta.pt" if Path(checkpoint).is_dir() else Path(checkpoint)
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return int(content["global_step"])


def tensorboard(run: Path, checkpoint: str | None) -> TensorBoardLogger:
    """A logger into ``<run>/tensorboard`` that drops what a continued run will log again."""
    purge = steps_taken(checkpoint)
    extra: dict[str, Any] = {} if purge is None else {"purge_step": purge}
    return TensorBoardLogger(run, name="tensorboard", version="", default_hp_metric=False, **extra)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints written beside their place and renamed.

    Lightning's own goes through the system's temporary folder, which is often on another disk: moving it
    from there is a copy, and a crash in the middle of it destroys the checkpoint that was there before.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Save `checkpoint` at `path`; remote paths as Lightning does."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f"{target.name}.{os.getpid()}.partial")
        try:
            with open(beside, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)


class LastCheckpoint(ModelCheckpoint):
    """``<run>/checkpoints/last.ckpt``, after every validation, or every epoch where not each has one.

    A class of its own, so that its state does not meet that of a `ModelCheckpoint` of the user's.
    """

    def __init__(self, run: Path, check_val_every_n_epoch: int | None) -> None:
        # Not save_last with save_top_k=0: that saves at the very end only.
        super().__init__(
            dirpath=run / "checkpoints",
            filename="last",
            enable_version_counter=False,
            save_on_train_epoch_end=None if check_val_every_n_epoch in (None, 1) else True,
        )


class SaveRunConfig(SaveConfigCallback):
    """What was run, as ``<run>/config.yaml`` and in TensorBoard's text tab.

    `out` and `ckpt_path` are left empty in it, so that the file starts a new run.
    """

    def save_config(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Write both; called on rank 0."""
        config = self.config.clone()
        for key in ("out", "ckpt_path"):
            if key in config:
                config[key] = None
        text = self.parser.dump(config, skip_none=False)
        write_beside_and_rename(Path(trainer.default_root_dir) / self.config_filename, text)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                add_text: Callable[..., None] = logger.experiment.add_text
                add_text("config", "```yaml\n" + text + "\n```", trainer.global_step)
