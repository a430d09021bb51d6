"""Under what a row was measured; without it a number says nothing."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed.contest import Contest, Line, Runs
from benchmarks.speed.greedy import parted_at_ties
from benchmarks.speed.job import JSON, Job, Measured

SAMPLED = ("response_lengths", "parts", "prompts", "updates", "first_kl", "distinct_greedy_tokens")
"""Facts of sides that sample: `parts` are seconds of the timed iterations."""


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
        "dtype": dtype(ours),
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
        "clip": None if ours.phase == "rollout" else ours.clip,
        "gradient_checkpointing": False,
        "attention": {
            "ours": runs[line.ours][0].facts.get("attention"),
            "theirs": runs[line.theirs][0].facts.get("attention"),
        },
        "first_loss": {
            "ours": [_rounded(run.first_loss) for run in runs[line.ours]],
            "theirs": [_rounded(run.first_loss) for run in runs[line.theirs]],
        },
        **sampled(runs[line.ours], runs[line.theirs]),
    }


def dtype(job: Job) -> str:
    """Of weights and arithmetic, in words."""
    if not job.bf16:
        return "fp32"
    return "bf16" if job.phase == "rollout" else "bf16 autocast over fp32 weights"


def sampled(ours: Sequence[Measured], theirs: Sequence[Measured]) -> JSON:
    """What each repeat of sides that sample says of itself."""
    said = {
        name: {
            side: [run.facts.get(name) for run in runs] for side, runs in (("ours", ours), ("theirs", theirs))
        }
        for name in SAMPLED
    }
    found: JSON = {name: each for name, each in said.items() if each["ours"][0] is not None}
    if all("greedy_tokens" in run.facts for run in (*ours, *theirs)):
        found["greedy_responses"] = {
            "compared": [len(run.facts["greedy_tokens"]) for run in ours],
            "parted_at_a_tie": [len(parted_at_ties(*both)) for both in zip(ours, theirs, strict=True)],
        }
    return found


def _rounded(loss: float | None) -> float | None:
    return None if loss is None else round(loss, 5)


def batch(job: Job) -> str:
    """A step's rows, in words."""
    if job.phase in ("ppo", "grpo"):
        return (
            f"{job.batch} prompts of {job.responses} responses an iteration, {job.epochs} epochs of one update, "
            f"{job.microbatch} responses a forward"
        )
    if job.phase == "rollout":
        return f"{job.batch} prompts of {job.responses} responses"
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
