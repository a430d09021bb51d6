"""Under what a row was measured; without it a number says nothing."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed.contest import Contest, Line, Runs
from benchmarks.speed.job import JSON, Job


def conditions(contest: Contest, line: Line, runs: Runs, loads: Sequence[float], quick: bool) -> JSON:
    """Machine, versions, settings, rows, and what both sides say of themselves.

    Args:
        contest: has the jobs.
        line: names the two sides.
        runs: of all sides.
        loads: of the machine at the start of each repeat.
        quick: not a result to keep.
    """
    ours, theirs = contest.sides[line.ours], contest.sides[line.theirs]
    on_gpu = ours.device == "cuda"
    return {
        "quick": quick,
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": ours.threads,
        "load": [round(value, 2) for value in loads],
        "clock": "wall seconds, device synchronised" if on_gpu else "CPU seconds of the process",
        "device": runs[line.ours][0].facts.get("device", ours.device),
        "dtype": "bf16 autocast over fp32 weights" if ours.bf16 else "fp32",
        "python": platform.python_version(),
        "versions": {"ours": runs[line.ours][0].versions, "theirs": runs[line.theirs][0].versions},
        "model": f"random Llama, size {ours.size}",
        "batch": {"ours": batch(ours), "theirs": batch(theirs)},
        "lengths": contest.lengths,
        "steps": {
            "warm_up": ours.warm,
            "ours": [run.steps for run in runs[line.ours]],
            "theirs": [run.steps for run in runs[line.theirs]],
        },
        "tokens": {
            "ours": [run.tokens for run in runs[line.ours]],
            "theirs": [run.tokens for run in runs[line.theirs]],
            "slots_ours": [run.slots for run in runs[line.ours]],
            "slots_theirs": [run.slots for run in runs[line.theirs]],
        },
        "optimizer": {
            "ours": runs[line.ours][0].facts.get("optimizer"),
            "theirs": runs[line.theirs][0].facts.get("optimizer"),
        },
        "clip": 1.0,
        "gradient_checkpointing": False,
        "attention": {
            "ours": runs[line.ours][0].facts.get("attention"),
            "theirs": runs[line.theirs][0].facts.get("attention"),
        },
        "first_loss": {
            "ours": [round(run.first_loss, 5) for run in runs[line.ours]],
            "theirs": [round(run.first_loss, 5) for run in runs[line.theirs]],
        },
    }


def batch(job: Job) -> str:
    """A step's rows, in words."""
    if job.max_tokens is not None:
        return f"packed to {job.max_tokens} tokens"
    if job.packed:
        mean, largest = job.lengths
        return f"{max(1, job.batch * mean // largest)} packed rows of {largest} tokens"
    what = "demonstrations" if job.phase == "sft" else f"prompts of {job.responses} responses"
    return f"{job.batch} {what}" + (", every comparison a pair of rows" if job.as_pairs else "")


def load() -> float:
    """Processes that wanted to run over the last minute, on average."""
    return os.getloadavg()[0]


def commit() -> str | None:
    """Of the code that was measured, marked where it was changed since; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        said = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return said.stdout.strip() or None


def processor() -> str:
    """Its name, as the system gives it."""
    file = Path("/proc/cpuinfo")
    if file.exists():
        for line in file.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
