"""The index of a file's trees: made in one pass that all processes share, and kept beside the file.

What is kept are two files, ``<file>.<key>.trees`` with 24 bytes a tree and ``<file>.<key>.counts`` with the counts. The
key is of everything that the numbers depend on, so an index that does not fit is never taken for one that does. A pass
that was interrupted goes on behind what it has kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from lit_rlhf.data.ranks import Processes
from lit_rlhf.data.streaming.ahead import computed_ahead
from lit_rlhf.data.streaming.index_files import (
    IndexFiles,
    as_plain,
    folder_of,
    measured_from,
    seen_by_all,
    write_whole,
)
from lit_rlhf.data.streaming.measuring import SAID, Chunk, Measured, count_duplicates, measure_chunk
from lit_rlhf.data.streaming.row_access import RowAccess
from lit_rlhf.data.streaming.row_reader import RowReader

_CHUNKS_AT_ONCE = 32
"""Of each process, between two exchanges."""
_SAID_EVERY_SECONDS = 15.0
_KEPT_EVERY_SECONDS = 30.0
_BLOCK_BYTES = 1 << 26


@dataclass
class RowIndex:
    """Where the trees of a file are, and what is known of them."""

    access: RowAccess
    trees: NDArray[np.void]
    """Of :data:`~lit_rlhf.data.streaming.measuring.TREE`, in the file's order; memory-mapped."""
    measured: Measured


def find_or_make_index(
    access: RowAccess, reader: RowReader, settings: str, workers: int, processes: Processes
) -> RowIndex:
    """The index of a file: the one that is kept, or a new one; all processes have to ask, and share the work.

    Args:
        access: The file.
        reader: Makes trees of its rows.
        settings: All that decides which trees a row becomes, as text.
        workers: Processes beside this one.
        processes: Of the run.

    Raises:
        RuntimeError: the pass went wrong on some process.
    """
    key = hashlib.blake2b(f"1\n{access.identity}\n{settings}".encode(), digest_size=6).hexdigest()
    folder, kept = folder_of(access), access.identity is not None
    folder, key = processes.from_first((folder, key if kept else f"{key}-{os.getpid()}"))
    stem = folder / f"{Path(access.name).name or 'rows'}.{key}"
    files = IndexFiles(stem, kept)
    if not processes.from_first(files.complete()):
        _Pass(access, reader, workers, processes, files).run()
    elif processes.rank == 0:
        rank_zero_info(f"{access.name}: measured before, read from {files.trees}")
    seen = seen_by_all(files, processes)
    index = RowIndex(access, seen.map(), seen.read())
    processes.gather(None)  # nobody lacks them any more
    if seen is not files or not kept:
        seen.remove()
    return index


class _Pass:
    """One pass over a file, on all processes at once; the first of them writes."""

    def __init__(
        self, access: RowAccess, reader: RowReader, workers: int, processes: Processes, files: IndexFiles
    ) -> None:
        self.access, self.reader, self.workers = access, reader, workers
        self.processes, self.files = processes, files
        self.measured = Measured()
        self.done = 0
        self._began = self._said = self._kept = time.monotonic()
        self._done_before = 0

    def run(self) -> None:
        try:
            self._run()
        finally:
            self.files.unlock()

    def _run(self) -> None:
        access, processes = self.access, self.processes
        if processes.rank == 0:
            self._take_up()
        self.done = self._done_before = processes.from_first(self.done)
        first_lines = self._first_lines()
        a_round = _CHUNKS_AT_ONCE * processes.count
        tasks = [
            (chunk, first_lines[chunk])
            for start in range(self.done, access.chunks, a_round)
            for chunk in _share(range(start, min(start + a_round, access.chunks)), processes)
        ]
        with closing(computed_ahead(partial(_measure, access, self.reader), tasks, self.workers)) as results:
            while self.done < access.chunks:
                chunks = range(self.done, min(self.done + a_round, access.chunks))
                found = self._exchange(results, len(_share(chunks, processes)))
                self.done = chunks.stop
                if processes.rank == 0:
                    self._write(found)
        if processes.rank == 0:
            self._finish()
        processes.gather(None)

    def _exchange(self, results: Iterator[Chunk], count: int) -> list[Chunk]:
        """What all processes found in this round; what went wrong on one is raised on all."""
        mine: list[Chunk] = []
        problem: Exception | None = None
        try:
            mine = [next(results) for _ in range(count)]
        except Exception as error:
            problem = error
        said = f"rank {self.processes.rank}: {type(problem).__name__}: {problem}" if problem else ""
        told = self.processes.gather((mine, said))
        if problem is not None:
            raise problem
        for _, text in told:
            if text:
                raise RuntimeError(f"{self.access.name} could not be measured. {text}")
        return [chunk for chunks, _ in told for chunk in chunks]

    def _first_lines(self) -> list[int]:
        """The line that each chunk begins with."""
        mine = [self.access.lines(chunk) for chunk in _share(range(self.access.chunks), self.processes)]
        counts = [count for part in self.processes.gather(mine) for count in part]
        return [1, *(np.cumsum(counts) + 1).tolist()]

    def _take_up(self) -> None:
        """Go on behind the last chunk that an interrupted pass has kept."""
        state: dict[str, Any] = {}
        self.files.lock()
        parts = (self.files.part, self.files.said)
        if self.files.kept and self.files.state.exists():
            kept = json.loads(self.files.state.read_text(encoding="utf-8"))
            if all(path.exists() and path.stat().st_size >= kept.get(path.suffix, -1) for path in parts):
                state = kept
        if "done" in state:
            self.done, self.measured = state["done"], measured_from(state["measured"])
            rank_zero_info(
                f"{self.access.name}: the first {self.done / self.access.chunks:.0%} were measured before"
            )
        for path in parts:
            with path.open("ab") as stream:
                stream.truncate(state.get(path.suffix, 0))

    def _write(self, found: list[Chunk]) -> None:
        with self.files.part.open("ab") as trees, self.files.said.open("ab") as said:
            for chunk in found:
                self.measured.merge(chunk.measured)
                trees.write(chunk.trees.tobytes())
                said.write(chunk.said.tobytes())
        now = time.monotonic()
        if now - self._said > _SAID_EVERY_SECONDS:
            self._said = now
            self._say(now - self._began)
        if self.files.kept and now - self._kept > _KEPT_EVERY_SECONDS:
            self._kept = now
            state = {"done": self.done, "measured": as_plain(self.measured)}
            state |= {path.suffix: path.stat().st_size for path in (self.files.part, self.files.said)}
            write_whole(self.files.state, json.dumps(state))

    def _say(self, seconds: float) -> None:
        share = self.done / self.access.chunks
        left = seconds / (self.done - self._done_before) * (self.access.chunks - self.done)
        rank_zero_info(
            f"{self.access.name}: {share:.0%} measured, {self.measured.report.rows} rows, about "
            f"{left / 60:.0f} min left"
        )

    def _finish(self) -> None:
        size = self.files.said.stat().st_size // SAID.itemsize
        if size:
            count, line = count_duplicates(np.memmap(self.files.said, dtype=SAID, mode="r"))
            self.measured.report.duplicates = count
            self.measured.report.first_duplicate = f"{self.access.name}:{line}" if count else ""
        write_whole(self.files.counts, json.dumps(as_plain(self.measured)))
        os.replace(self.files.part, self.files.trees)
        self.files.said.unlink()
        self.files.state.unlink(missing_ok=True)


def _measure(access: RowAccess, reader: RowReader, task: tuple[int, int]) -> Chunk:
    return measure_chunk(access, reader, *task)


def _share(chunks: range, processes: Processes) -> range:
    """This process's part of consecutive chunks, itself consecutive, so that parts in order are all in order."""
    rank, count = processes.rank, processes.count
    return chunks[len(chunks) * rank // count : len(chunks) * (rank + 1) // count]
