"""Runs of the real command line on several processes, started as torchrun starts them, and what they leave."""

from __future__ import annotations

import faulthandler
import json
import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from benchmarks.resume import import_everything

LIMIT = 240.0
"""Seconds after which a run counts as hung: its ranks say where they are, and are killed."""


@dataclass(frozen=True)
class Run:
    """A command that has ended on all its ranks."""

    folder: Path
    """Its run folder."""
    codes: list[int]
    """Each rank's exit code; -9 of one that was killed."""
    outputs: list[str]
    """All that each rank printed."""

    def went_well(self) -> Run:
        """Itself; raises where a rank failed."""
        for rank, (code, output) in enumerate(zip(self.codes, self.outputs, strict=True)):
            assert code == 0, f"rank {rank} ended with {code}:\n{output[-6000:]}"
        return self

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """What it exported."""
        return load_file(self.folder / "export/model.safetensors")

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "metrics.json").read_text()))

    def curve(self, name: str) -> dict[int, float]:
        """A scalar of its TensorBoard by step."""
        from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
            EventAccumulator,
        )

        events = EventAccumulator(str(self.folder / "tensorboard"), size_guidance={"scalars": 0})
        events.Reload()
        return {event.step: event.value for event in events.Scalars(name)}


def run(
    words: Sequence[str | Path],
    folder: Path,
    ranks: int = 1,
    strategy: str = "auto",
    limit: float = LIMIT,
    meanwhile: Callable[[list[int]], None] | None = None,
    on_rank: Callable[[int], Any] | None = None,
) -> Run:
    """``lit-rlhf WORDS`` on so many processes, with `folder` as the run folder; how it ended.

    Args:
        words: the command and its flags.
        folder: given as ``--out``.
        ranks: processes.
        strategy: given as ``--trainer.strategy``.
        limit: seconds after which it counts as hung.
        meanwhile: called with the process ids while they run, such as to kill one.
        on_rank: called in each process with its rank before the command.
    """
    import_everything()
    command, *flags = map(str, words)
    argv = [
        command, "--trainer.accelerator", "cpu", "--trainer.devices", str(ranks), "--trainer.strategy", strategy,
        "--out", str(folder), *flags,
    ]  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork")
    environment = {} if ranks == 1 else as_torchrun(ranks)
    files = [folder.with_name(f"{folder.name}-said-{rank}.txt") for rank in range(ranks)]
    started = time.monotonic()
    processes = [
        context.Process(target=_rank, args=(rank, argv, environment, file, limit, on_rank))
        for rank, file in enumerate(files)
    ]
    for process in processes:
        process.start()
    try:
        if meanwhile is not None:
            meanwhile([process.pid for process in processes if process.pid is not None])
        for process in processes:
            process.join(max(0.0, started + limit + 5 - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
            process.join()
    return Run(
        folder,
        [process.exitcode or 0 for process in processes],
        [file.read_text() for file in files],
    )


def as_torchrun(ranks: int) -> dict[str, str]:
    """What torchrun puts into the environment of all its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "tests",  # Lightning then takes the processes as started by torchrun
    }


def _rank(
    rank: int,
    argv: list[str],
    environment: dict[str, str],
    output: Path,
    limit: float,
    on_rank: Callable[[int], Any] | None,
) -> None:
    code = 1
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        _speak_here()
        faulthandler.dump_traceback_later(limit, exit=True, file=sys.stderr)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ.update(environment)
        if environment:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        from lit_rlhf.cli.main import main

        if on_rank is not None:
            on_rank(rank)
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


def _speak_here() -> None:
    """Have logs and warnings go where they go without a test runner, which has put its own ears in between."""
    for name in (None, "lightning", "lightning.pytorch", "lightning.fabric", "lit_rlhf", "transformers"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            if type(handler).__module__.startswith("_pytest"):
                logger.removeHandler(handler)
            elif isinstance(handler, logging.StreamHandler):
                handler.setStream(sys.stderr)
    warnings.resetwarnings()
    warnings.simplefilter("ignore", DeprecationWarning)  # as Python has it

    def show(message: Any, *place: Any, **named: Any) -> None:
        sys.stderr.write(warnings.formatwarning(message, *place[:3]))

    warnings.showwarning = show
