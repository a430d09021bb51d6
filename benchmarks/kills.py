"""A real ``lit-rlhf fit`` in a process of its own that is killed (SIGKILL) at a chosen moment.

The process that starts it has imported everything and forks, so that a run costs what it trains and not what it
imports. The forked process runs the command line's own entry. What is put into it here only counts, notes in shared
memory what it is doing, and kills: in the middle of a rollout, an update, a validation or a log record, before any
operation on a file, or inside the writing of one.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import socket
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

Work: TypeAlias = Literal["start", "rollout", "update", "validation", "log", "save", "export", "between"]
"""What a run is doing."""
WORKS: tuple[Work, ...] = ("start", "rollout", "update", "validation", "log", "save", "export", "between")

Counter: TypeAlias = Literal["rollout", "update", "validation", "log", "save", "file"]
"""What is counted: passes over the network in a rollout, an update or a validation; records of the log; writes into a
checkpoint; operations on files in the run folder (opened for writing, renamed, linked, removed)."""
COUNTERS: tuple[Counter, ...] = ("rollout", "update", "validation", "log", "save", "file")


@dataclass(frozen=True)
class Kill:
    """When a process is killed: at the `number`-th of what is counted, from 1, or after so many `seconds`."""

    counter: Counter | None = None
    number: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    """Its exit code; -9 after a kill."""
    doing: Work
    """What it was doing at the end."""
    counts: dict[Counter, int]
    seconds: float
    output: str
    """All that it printed."""


class Notes:
    """What a process is doing and has counted, in memory that its parent reads after its death."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 8 * (1 + len(COUNTERS)))

    def _read(self, place: int) -> int:
        return int(struct.unpack_from("q", self.memory, 8 * place)[0])

    def _write(self, place: int, value: int) -> None:
        struct.pack_into("q", self.memory, 8 * place, value)

    @property
    def doing(self) -> Work:
        return WORKS[self._read(0)]

    @doing.setter
    def doing(self, work: Work) -> None:
        self._write(0, WORKS.index(work))

    def count(self, counter: Counter) -> int:
        """One more of these; returns how many there have been."""
        place = 1 + COUNTERS.index(counter)
        self._write(place, self._read(place) + 1)
        return self._read(place)

    @property
    def counts(self) -> dict[Counter, int]:
        return {counter: self._read(1 + place) for place, counter in enumerate(COUNTERS)}


def run(
    argv: Sequence[str],
    folder: Path,
    kill: Kill | None = None,
    ranks: int = 1,
    killed_rank: int = 0,
    limit: float = 300.0,
    grace: float = 30.0,
    prepare: Callable[[], None] | None = None,
) -> list[Ended]:
    """Run ``lit-rlhf ARGV`` with `folder` as working folder; how each rank ended.

    Args:
        argv: the command's words.
        folder: where it runs; relative paths start there.
        kill: when it is killed; None = not.
        ranks: processes, started as torchrun starts them.
        killed_rank: which of them is killed.
        limit: seconds after which what still runs is killed.
        grace: seconds that the other ranks may outlive the killed one before they are killed too, as launchers do.
        prepare: called in each process before the command, such as to set a limit.
    Raises:
        TimeoutError: a process outlived its limit.
    """
    context = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    notes, outputs, processes = [], [], []
    started = time.monotonic()
    for rank in range(ranks):
        notes.append(Notes())
        outputs.append(folder / f"output-{rank}.txt")
        plan = kill if rank == killed_rank else None
        environment = {} if ranks == 1 else _as_torchrun(rank, ranks, port)
        process = context.Process(
            target=_child, args=(list(argv), folder, outputs[-1], plan, notes[-1], environment, prepare)
        )
        process.start()
        processes.append(process)
    end = started + limit
    if kill is not None:
        processes[killed_rank].join(limit if kill.counter else kill.seconds)
        if kill.counter is None:
            processes[killed_rank].kill()
            processes[killed_rank].join()
        if processes[killed_rank].exitcode == -signal.SIGKILL:
            end = min(end, time.monotonic() + grace)
    outlived = []
    for rank, process in enumerate(processes):
        process.join(max(0.0, end - time.monotonic()))
        if process.exitcode is None:
            process.kill()
            process.join()
            outlived.append(rank)
    seconds = time.monotonic() - started
    ended = [
        Ended(
            process.exitcode or 0,
            note.doing,
            note.counts,
            seconds,
            output.read_text() if output.exists() else "",
        )
        for process, note, output in zip(processes, notes, outputs, strict=True)
    ]
    if outlived and end == started + limit:
        raise TimeoutError(
            f"ranks {outlived} still ran after {limit} seconds:\n{ended[outlived[0]].output[-2000:]}"
        )
    return ended


def _as_torchrun(rank: int, ranks: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "kills",  # Lightning then takes the processes as started by torchrun
    }


def _child(
    argv: list[str],
    folder: Path,
    output: Path,
    kill: Kill | None,
    notes: Notes,
    environment: dict[str, str],
    prepare: Callable[[], None] | None,
) -> None:
    code = 1
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.environ.update(environment)
        os.chdir(folder)
        warnings.resetwarnings()
        from lit_rlhf.cli.main import main

        watch(notes, kill)
        if prepare is not None:
            prepare()
        main(argv)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # nothing of the parent's runs at the exit of its child


def watch(notes: Notes, kill: Kill | None) -> None:
    """Have this process note what it does, count, and kill itself when `kill` says so."""
    import lightning as L
    import torch
    from lightning.pytorch.loggers import TensorBoardLogger
    from lightning.pytorch.loops import _EvaluationLoop, _TrainingEpochLoop  # type: ignore[attr-defined]
    from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

    import lit_rlhf.callbacks.staged_checkpoint as staged_checkpoint
    import lit_rlhf.cli.checkpoints as checkpoints
    from lit_rlhf import PPOModule

    def tick(counter: Counter, before: Callable[[], Any] = lambda: None) -> None:
        number = notes.count(counter)
        if kill is not None and kill.counter == counter and kill.number == number:
            before()
            os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def during(work: Work) -> Iterator[None]:
        outer, notes.doing = notes.doing, work
        try:
            yield
        finally:
            notes.doing = outer

    def noted(owner: Any, name: str, work: Work) -> None:
        inner = getattr(owner, name)

        def outer(*args: Any, **kwargs: Any) -> Any:
            with during(work):
                return inner(*args, **kwargs)

        setattr(owner, name, outer)

    notes.doing = "start"
    noted(L.Trainer, "_run_stage", "between")
    noted(_TrainingEpochLoop, "advance", "update")
    noted(_EvaluationLoop, "run", "validation")
    noted(PPOModule, "collect", "rollout")
    noted(PPOModule, "export", "export")
    noted(L.Trainer, "save_checkpoint", "save")
    noted(staged_checkpoint, "put_in_place", "save")
    noted(TensorBoardLogger, "log_metrics", "log")
    noted(TensorBoardLogger, "save", "log")

    embed = torch.nn.functional.embedding

    def embedding(*args: Any, **kwargs: Any) -> Any:
        if notes.doing in ("rollout", "update", "validation"):
            tick(notes.doing)  # type: ignore[arg-type]
        return embed(*args, **kwargs)

    torch.nn.functional.embedding = embedding

    write_record = RecordWriter.write

    def record(self: Any, data: bytes) -> None:
        def half() -> None:
            self._writer.write(data[: len(data) // 2])
            self._writer.flush()

        tick("log", half)
        write_record(self, data)

    RecordWriter.write = record

    class Counted:
        """A file whose writes are counted; the last one before a kill is cut in the middle."""

        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, data: Any) -> Any:
            def half() -> None:
                self._file.write(bytes(data)[: len(bytes(data)) // 2])
                self._file.flush()

            tick("save", half)
            return self._file.write(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def __enter__(self) -> Counted:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

    def counted_open(*args: Any, **kwargs: Any) -> Counted:
        return Counted(open(*args, **kwargs))

    checkpoints.open = counted_open  # type: ignore[attr-defined]

    here = os.getcwd()

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            written = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
            path = args[0]
        else:
            written = event in ("os.rename", "os.link", "os.remove", "os.mkdir")
            path = args[0] if written else None
        if written and isinstance(path, str | bytes | Path):
            name = os.fspath(os.fsdecode(path))
            if (name.startswith(here) or not name.startswith("/")) and "tfevents" not in name:
                tick("file")

    sys.addaudithook(audit)
