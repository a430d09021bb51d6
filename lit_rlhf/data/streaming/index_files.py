"""The files that an index is kept in, and those of a pass that is not through yet."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lit_rlhf.data.ranks import Processes
from lit_rlhf.data.report import SplitReport
from lit_rlhf.data.streaming.measuring import TREE, Measured
from lit_rlhf.data.streaming.row_access import RowAccess

_BLOCK_BYTES = 1 << 26


class IndexFiles:
    """The files of an index, with those of a pass that is not through yet."""

    def __init__(self, stem: Path, kept: bool = True) -> None:
        self.kept = kept
        # None of these names ends like a data file's: in a folder that is given as data they are left alone.
        self.trees, self.counts = stem.with_name(f"{stem.name}.trees"), stem.with_name(f"{stem.name}.counts")
        self._lock: IO[bytes] | None = None
        self._name_parts(stem.name)

    def lock(self) -> None:
        """Keep other runs from writing the same parts; where one does, write others."""
        self._lock = self.part.open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            self._name_parts(f"{self.trees.stem}-{os.getpid()}")

    def unlock(self) -> None:
        """The pass has ended, well or not."""
        if self._lock is not None:
            self._lock.close()

    def _name_parts(self, name: str) -> None:
        self.part, self.said, self.state = (
            self.trees.with_name(name + suffix) for suffix in (".part", ".said", ".state")
        )

    def complete(self) -> bool:
        return self.counts.exists() and self.trees.exists()

    def read(self) -> Measured:
        return measured_from(json.loads(self.counts.read_text(encoding="utf-8")))

    def map(self) -> NDArray[np.void]:
        if not self.trees.stat().st_size:
            return np.empty(0, dtype=TREE)
        return np.memmap(self.trees, dtype=TREE, mode="r")

    def remove(self) -> None:
        """Take the names away; what is mapped stays until it is let go."""
        for path in (self.trees, self.counts, self.part, self.said, self.state):
            path.unlink(missing_ok=True)


def folder_of(access: RowAccess) -> Path:
    """Beside the data where that can be written, else among the temporary files."""
    if access.folder is not None and access.identity is not None and os.access(access.folder, os.W_OK):
        return access.folder
    folder = Path(tempfile.gettempdir()) / f"lit_rlhf-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def seen_by_all(files: IndexFiles, processes: Processes) -> IndexFiles:
    """The finished files; processes of machines that do not see them get copies of their own."""
    seen = processes.gather(files.complete())
    if all(seen):
        return files
    own = files
    if not seen[processes.rank]:
        folder = Path(tempfile.mkdtemp(prefix="lit_rlhf-"))
        own = IndexFiles(folder / files.trees.name.removesuffix(".trees"), files.kept)
    for source, target in ((files.trees, own.trees), (files.counts, own.counts)):
        size = processes.from_first(source.stat().st_size if processes.rank == 0 else 0)
        for start in range(0, max(size, 1), _BLOCK_BYTES):
            block = b""
            if processes.rank == 0:
                with source.open("rb") as stream:
                    stream.seek(start)
                    block = stream.read(_BLOCK_BYTES)
            block = processes.from_first(block)
            if own is not files:
                with target.open("ab") as stream:
                    stream.write(block)
    return own


def as_plain(measured: Measured) -> dict[str, Any]:
    """As JSON can hold it."""
    return {**asdict(measured), "report": measured.report.to_plain()}


def measured_from(plain: dict[str, Any]) -> Measured:
    longest = [(tokens, tree) for tokens, tree in plain["longest"]]
    return Measured(**{**plain, "longest": longest, "report": SplitReport.from_plain(plain["report"])})


def write_whole(path: Path, text: str) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}.writing")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
