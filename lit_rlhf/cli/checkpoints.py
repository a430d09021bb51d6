"""The run's checkpoints: written beside and renamed, looked over before one is continued from."""

from __future__ import annotations

import errno
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from lit_rlhf.callbacks import GracefulStop
from lit_rlhf.callbacks.staged_checkpoint import previous, remove, staged, sync_folder
from lit_rlhf.callbacks.stop import Moment
from lit_rlhf.strategies.sharded_checkpoint import read_sharded_checkpoint

NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
"""What the system says where a file cannot grow."""


class NoRoom(RuntimeError):
    """A file could not be written; the message says what there is to continue from."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints written beside their place and renamed.

    Lightning's own goes through the system's temporary folder, which is often on another disk: moving it
    from there is a copy, and a crash in the middle of it destroys the checkpoint that was there before.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Save `checkpoint` at `path`; remote paths as Lightning does.

        Raises:
            NoRoom: the disk is full; what lay at `path` is as it was.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        beside = target.with_name(f"{target.name}.{os.getpid()}.partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(beside, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
            sync_folder(target.parent)
        except (OSError, RuntimeError) as error:
            if (reason := no_room(error)) is None:
                raise
            _not_written(target, reason)
        finally:
            beside.unlink(missing_ok=True)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """What lies at `path`: a file, or the folder that the ranks of a sharded run wrote together."""
        if "://" not in str(path) and Path(path).is_dir():
            return read_sharded_checkpoint(path, weights_only=True if weights_only is None else weights_only)
        return super().load_checkpoint(path, map_location, weights_only)


def no_room(error: BaseException) -> str | None:
    """The system's words, where a full disk, a quota or a limit lies behind `error`; else None.

    torch.save answers a failed write with an error of its own.
    """
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in NO_ROOM:
            return str(cause.strerror)
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """`error`, what it was raised from or in answer to, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def with_room(work: Callable[[], Any]) -> None:
    """Run `work`; say in a sentence where a disk is full, whichever of its files it was that could not grow.

    Raises:
        NoRoom: a write found no room.
    """
    try:
        work()
    except (OSError, RuntimeError) as error:
        # Where a checkpoint had no room, the loggers that are closed then have none either.
        said = next((cause for cause in causes(error) if isinstance(cause, NoRoom)), None)
        if said is not None:
            raise said from None
        reason = no_room(error)
        if reason is None:
            raise
        place = getattr(error, "filename", None)
        raise NoRoom(
            f"a file could not be written: {reason}{f' ({place})' if place else ''}. The checkpoints are as they "
            "were: make room, then continue with the same command and --ckpt_path last."
        ) from error


def _not_written(target: Path, reason: str) -> NoReturn:
    target = target.with_name(target.name.removesuffix(".next"))
    last = target.with_name("last.ckpt")
    standing = (
        f"The run up to update {steps_taken(last)} is in {last}. Make room, then continue with the same command and "
        f"--ckpt_path last."
        if last.exists()
        else "There is no earlier one: make room, then start again."
    )
    raise NoRoom(f"{target}: the checkpoint could not be written: {reason}. {standing}") from None


class LastCheckpoint(GracefulStop):
    """``<run>/checkpoints/last.ckpt``: after every epoch, after a validation inside one, and on Ctrl-C or SIGTERM.

    Args:
        run: the run folder.
        minutes: inside an epoch also every so many minutes, at the end of an optimizer step; None = not.
    """

    def __init__(self, run: Path, minutes: float | None = None) -> None:
        super().__init__(run / "checkpoints" / "last.ckpt")
        self.seconds = None if minutes is None else 60 * minutes
        self._saved_at = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._saved_at = monotonic()

    def wants(self, trainer: L.Trainer, moment: Moment) -> bool:
        """Every epoch's end, every validation, what the clock asks for, and the end of a fit inside an epoch.

        Such an epoch is not finished, though Lightning closes it: what is saved then would skip its rest.
        """
        ends_inside = trainer.should_stop and trainer.fit_loop._can_stop_early and not trainer.is_last_batch
        if moment == "epoch" and ends_inside:
            return False
        wanted = moment in ("validation", "epoch") or (
            moment == "update" and (ends_inside or self._time_is_up(trainer))
        )
        if wanted:
            self._saved_at = monotonic()
        return wanted

    def _time_is_up(self, trainer: L.Trainer) -> bool:
        if self.seconds is None:
            return False
        up = monotonic() - self._saved_at >= self.seconds
        return up if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(up, all=False)


def last_checkpoint(run: Path) -> Path | None:
    """The run's last checkpoint that is whole; None where there is none.

    A damaged ``last.ckpt`` is set aside as ``last.ckpt.damaged``, said aloud, and the one before it is taken.
    """
    last = run / "checkpoints" / "last.ckpt"
    if last.exists():
        wrong = damage(last)
        if wrong is None:
            return last
        set_aside = last.with_name(f"{last.name}.damaged")
        print(f"{last} is damaged ({wrong}); it is kept as {set_aside.name}.", file=sys.stderr)
        remove(set_aside)
        os.replace(last, set_aside)
    before = previous(last)
    if before.exists() and damage(before) is None:
        print(f"continuing from the one before it: {before}, update {steps_taken(before)}", file=sys.stderr)
        return before
    return None


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's file, by its checksums; None where it is whole.

    torch.load does not look at them: flipped bits would become weights.
    """
    if checkpoint.is_dir():  # sharded; its files have no checksum of their own
        missing = [name for name in (".metadata", "meta.pt") if not (checkpoint / name).exists()]
        return f"{missing[0]} is missing" if missing else None
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            wrong = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        return f"cut short or overwritten: {error}"
    return None if wrong is None else f"the checksum of {wrong} is not that of its content"


def steps_taken(checkpoint: str | Path | None) -> int | None:
    """Optimizer updates in a checkpoint, where TensorBoard's curves go on; None without one."""
    if checkpoint is None or not Path(checkpoint).exists():
        return None
    path = Path(checkpoint) / "meta.pt" if Path(checkpoint).is_dir() else Path(checkpoint)
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return int(content["global_step"])


def clear_leftovers(run: Path) -> None:
    """Remove what processes that are no more left half-written in a run folder."""
    for partial in [*run.glob("*.partial"), *(run / "checkpoints").glob("*.partial")]:
        owner = re.search(r"\.(\d+)\.partial$", partial.name)
        if owner and not (_is_alive(int(owner[1])) and int(owner[1]) != os.getpid()):
            remove(partial)
    remove(staged(run / "checkpoints" / "last.ckpt"))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
