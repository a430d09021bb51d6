"""A checkpoint that takes its place once everything that was logged before it is on disk."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import lightning as L


class StagedCheckpoint:
    """Save the state where it is right, let it count where the log has caught up with it.

    Lightning calls its hooks before it writes a step's or an epoch's numbers. A run killed in between would
    continue from a checkpoint whose numbers nobody logs again. So the state is written beside its place
    (:meth:`stage`) and takes it in a later hook (:meth:`publish`), after the loggers have written. The checkpoint
    that was there stays beside it as ``previous``, should the new one turn out to be damaged.

    Args:
        path: where the checkpoint is to lie.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.beside = staged(path)
        self.waiting = False

    def stage(self, trainer: L.Trainer) -> None:
        """Write the state as it is now beside its place; every rank calls it."""
        trainer.save_checkpoint(self.beside, weights_only=False)
        self.waiting = True

    def publish(self, trainer: L.Trainer) -> None:
        """Put what is waiting in its place, once the loggers have written what they hold."""
        if not self.waiting:
            return
        self.waiting = False
        for logger in trainer.loggers:
            logger.save()
        if trainer.is_global_zero:
            put_in_place(self.beside, self.path)

    def discard(self) -> None:
        """Forget what is waiting."""
        if self.waiting:
            self.waiting = False
            remove(self.beside)


def staged(path: Path) -> Path:
    """Where the checkpoint of `path` is written before it counts."""
    return path.with_name(f"{path.name}.next")


def previous(path: Path) -> Path:
    """Where the checkpoint before that of `path` is kept."""
    return path.with_name(f"previous{path.suffix}")


def put_in_place(fresh: Path, path: Path) -> None:
    """Rename `fresh` to `path` and keep what was there as :func:`previous`; at no moment is there none of the two."""
    before = previous(path)
    if path.is_dir() or fresh.is_dir() or before.is_dir():
        remove(before)  # sharded checkpoints are folders, whose place nothing takes at once
        if path.exists():
            os.replace(path, before)
    elif path.exists():
        _keep(path, before)
    os.replace(fresh, path)
    sync_folder(path.parent)


def _keep(path: Path, before: Path) -> None:
    link = before.with_name(f"{before.name}.link")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
        os.replace(link, before)
    except OSError:  # a file system without hard links
        os.replace(path, before)
    link.unlink(missing_ok=True)  # still there where both already were one file


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` outlive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
