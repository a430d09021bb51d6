"""What a worker process does: make a start, or run a job."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from benchmarks.reward_studies.cells import Cells, Job

STUDIES = ("rankings", "votes", "denoising", "components", "contrastive")


def study(name: str) -> Any:
    """The module of a study: NAME, BASELINE, ARMS, CONDITIONS, METRICS, FINDING, jobs and run."""
    return importlib.import_module(f"benchmarks.reward_studies.{name}")


def make_start(data: Path, out: Path, quick: bool, name: str) -> None:
    """Make one of the models that everything starts from."""
    from benchmarks.reward_studies.starts import Starts

    Starts(data, out, quick).make(name)


def run_job(data: Path, out: Path, quick: bool, job: Job) -> None:
    """Run the arms of one job that are not done."""
    from benchmarks.reward_studies.starts import Starts

    study(job.study).run(job, Starts(data, out, quick), Cells(out, job))
