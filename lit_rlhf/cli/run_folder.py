"""The run folder: where it lies, what may not be overwritten, where a run continues."""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_rlhf.callbacks import write_beside_and_rename
from lit_rlhf.cli.checkpoints import damage, last_checkpoint, steps_taken
from lit_rlhf.cli.refusal import near_files, refuse

RUN_VARIABLE = "LIT_RLHF_RUN"
"""Hands the run folder's name, which holds the time, to the processes that Lightning starts for other ranks."""

LONGEST_WAIT = 5.0
"""Seconds that a fit waits for its clock to pass the newest file of its curves."""


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


def make_run_folder(run: Path) -> None:
    """Make the folder of a fit before anything slow; refuses a place where there can be none."""
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse(
            f"--out {run}: no folder can be made there ({error.strerror}).", "Give one that you may write to."
        )


def resolve_checkpoint(asked: str | None, run: Path, out_given: bool, command: str) -> str | None:
    """The checkpoint's path; refuses what is not there, or damaged.

    ``last`` is ``<run>/checkpoints/last.ckpt``, or where that is damaged the one before it.
    """
    if asked is None or asked in ("best", "hpc") or "://" in asked:
        return asked
    if asked == "last":
        if not out_given:
            recent = sorted(
                Path("runs").glob("*/checkpoints/last.ckpt"), key=lambda file: file.stat().st_mtime
            )
            hint = [f"The newest here is --out {recent[-1].parent.parent}"] if recent else []
            refuse("--ckpt_path last needs --out DIR: the run folder whose checkpoint is meant.", *hint)
        found = last_checkpoint(run)
        if found is None:
            refuse_without_last(run, command)
        return str(found)
    if not Path(asked).exists():
        refuse(f"--ckpt_path {asked}: no such file.", *near_files(asked))
    wrong = damage(Path(asked))
    if wrong is not None:
        refuse(f"--ckpt_path {asked}: the file is damaged ({wrong}).", "Give an earlier checkpoint.")
    return asked


def refuse_without_last(run: Path, command: str) -> NoReturn:
    """Say that there is no last checkpoint, and what can be done."""
    path = run / "checkpoints" / "last.ckpt"
    if command != "fit":
        advice = "Give --out the folder of the run that is meant."
    elif (run / "config.yaml").exists():
        advice = (
            "The run ended before its first checkpoint: leave --ckpt_path out, and it starts again there."
        )
    else:
        advice = "Leave --ckpt_path out to start afresh, or give --out the folder of the run to continue."
    refuse(f"--ckpt_path last: {path} is not there.", *near_files(str(path)), advice)


def refuse_overwriting(run: Path, checkpoint: str | None) -> None:
    """Refuse a new fit into the folder of an earlier one: its checkpoints would be lost."""
    found = sorted((run / "checkpoints").glob("*.ckpt"))
    if checkpoint is None and found and this_rank() == 0:
        names = {file.name for file in found}
        refuse(
            f"{run} holds the checkpoints of an earlier run ({found[0].name}).",
            f"Continue it with --ckpt_path {'last' if names & {'last.ckpt', 'previous.ckpt'} else found[0]}, or give "
            "another folder with --out.",
        )


def tensorboard(run: Path, checkpoint: str | None) -> TensorBoardLogger:
    """A logger into ``<run>/tensorboard`` that drops what will be logged again.

    That is what an earlier process wrote after the checkpoint, or all of it where it came to none.
    """
    folder = run / "tensorboard"
    if this_rank() == 0:
        (folder / TensorBoardLogger.NAME_HPARAMS_FILE).unlink(missing_ok=True)  # else the old one would stay
        _wait_to_be_sorted_last(list(folder.glob("events.out.tfevents.*")))
    # A new run has one too: TensorBoard's server takes the first mark of a start that it meets for the run's own.
    purge_step: Any = steps_taken(checkpoint) or 0
    return TensorBoardLogger(
        run, name="tensorboard", version="", default_hp_metric=False, purge_step=purge_step
    )


def _wait_to_be_sorted_last(written: list[Path]) -> None:
    """Wait for a second in which no event file of the run was begun.

    TensorBoard reads the files in the order of their names, ``…tfevents.<second>.<host>.<process>…``; read
    before what it is to drop, a file would drop nothing.
    """
    seconds = [int(found[1]) for file in written if (found := re.search(r"tfevents\.(\d+)\.", file.name))]
    newest = max(seconds, default=0)
    ahead = newest - time.time()
    if ahead > LONGEST_WAIT:
        warnings.warn(
            f"{written[0].parent} was begun {ahead:.0f} seconds in the future, by another machine's clock: its "
            "curves may show steps twice.",
            stacklevel=2,
        )
        return
    while int(time.time()) <= newest:
        time.sleep(0.02)


class SaveRunConfig(SaveConfigCallback):
    """What was run, as ``<run>/config.yaml`` and in TensorBoard's text tab.

    `out` and `ckpt_path` are left empty in it, so that the file starts a new run; what `fit` alone takes is left out
    where it was not given, so that `validate`, `test` and `predict` take the file too.
    """

    def save_config(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Write both; called on rank 0."""
        config = self.config.clone()
        for key in ("out", "ckpt_path"):
            if key in config:
                config[key] = None
        if config.get("checkpoint_minutes") is None:
            config.pop("checkpoint_minutes", None)
        text = self.parser.dump(config, skip_none=False)
        file = Path(trainer.default_root_dir) / self.config_filename
        steps = steps_taken(self.config.get("ckpt_path"))
        as_before = steps is not None and file.exists() and file.read_text(encoding="utf-8") == text
        write_beside_and_rename(file, text)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and not as_before:
                add_text: Callable[..., None] = logger.experiment.add_text
                # One step back, so that continuing from the same checkpoint once more does not drop it.
                add_text("config", "```yaml\n" + text + "\n```", max(0, (steps or 0) - 1))
