"""Steps of a benchmark, each one `lit-rlhf` command in a process of its own: run once, timed, and remembered."""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The checkout: commands run here, so that `configs/` and `benchmarks.` are found."""


@dataclass(frozen=True)
class Step:
    """One command.

    Args:
        name: of the run folder and of the step's record.
        arguments: what stands behind ``lit-rlhf``; ``$DATA`` and ``$OUT`` are put in when it runs.
    """

    name: str
    arguments: str

    @property
    def command(self) -> str:
        """The command as a reader types it, with ``$DATA`` and ``$OUT``."""
        return f"lit-rlhf {' '.join(self.arguments.split())}"

    def words(self, places: Mapping[str, str]) -> list[str]:
        """The command's words, with the places put in."""
        words = shlex.split(self.arguments)
        for name, place in places.items():
            words = [word.replace(f"${name}", place) for word in words]
        return words


@dataclass(frozen=True)
class Record:
    """What is remembered of a step that ran."""

    name: str
    command: str
    cpu_seconds: float
    wall_seconds: float
    done: bool


class Runner:
    """Runs steps in order and skips those that are done; an interrupted fit goes on from its last checkpoint.

    Args:
        data: the data folder, ``$DATA`` in commands.
        out: where run folders and records go, ``$OUT`` in commands.
        threads: threads of each process.
    """

    def __init__(self, data: Path, out: Path, threads: int = 1) -> None:
        self.out = out
        self.places = {"DATA": str(data), "OUT": str(out)}
        self.threads = threads
        (out / "steps").mkdir(parents=True, exist_ok=True)

    def run(self, step: Step) -> None:
        """Run the step unless it is done.

        Raises:
            RuntimeError: the command failed, or an earlier run of the step was another command.
        """
        before = self.record(step.name)
        if before and before.command != step.command:
            raise RuntimeError(
                f"{self.out}/steps/{step.name}.json is of another command:\n  then {before.command}\n"
                f"  now  {step.command}\nTake that file and {self.out}/{step.name} away, or give another --out."
            )
        if before and before.done:
            print(f"{step.name}: done ({before.cpu_seconds:.0f} CPU seconds)", flush=True)
            return
        print(f"{step.name}: {step.command}", flush=True)
        words = step.words(self.places)
        if words[0] == "fit" and (self.out / step.name / "checkpoints" / "last.ckpt").is_file():
            words += ["--ckpt_path", "last"]
        started, cpu_before, code = time.perf_counter(), children_cpu_seconds(), 1
        try:
            code = self._call(words, step.name)
        finally:
            self._remember(
                Record(
                    step.name,
                    step.command,
                    cpu_seconds=children_cpu_seconds() - cpu_before + (before.cpu_seconds if before else 0.0),
                    wall_seconds=time.perf_counter() - started + (before.wall_seconds if before else 0.0),
                    done=code == 0,
                )
            )
        if code:
            raise RuntimeError(
                f"{step.name} left with exit code {code}; see {self.out}/steps/{step.name}.log"
            )

    def record(self, name: str) -> Record | None:
        """What is known of a step, None before its first run."""
        file = self.out / "steps" / f"{name}.json"
        return Record(**json.loads(file.read_text())) if file.is_file() else None

    def log(self, name: str) -> str:
        """What the step's command printed."""
        return (self.out / "steps" / f"{name}.log").read_text(encoding="utf-8")

    def _call(self, words: Sequence[str], name: str) -> int:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        with open(self.out / "steps" / f"{name}.log", "a", encoding="utf-8") as log:
            return subprocess.run(
                [sys.executable, "-m", "lit_rlhf", *words],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode

    def _remember(self, record: Record) -> None:
        file = self.out / "steps" / f"{record.name}.json"
        beside = file.with_suffix(".partial")
        beside.write_text(json.dumps(vars(record), indent=2) + "\n")
        os.replace(beside, file)


def children_cpu_seconds() -> float:
    """User and system time of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
