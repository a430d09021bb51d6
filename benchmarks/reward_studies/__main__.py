"""``python -m benchmarks.reward_studies --data DIR --out DIR``: run what is not done yet, then write the page."""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.reward_studies.work import STUDIES, make_start, run_job, study

RESULTS = Path(__file__).parents[1] / "results"


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    arguments = parse(argv)
    data, out = arguments.data.resolve(), arguments.out.resolve() / ("quick" if arguments.quick else "full")
    os.environ["OMP_NUM_THREADS"] = "1"
    studies = [study(name) for name in arguments.only]
    jobs = [job for module in studies for job in module.jobs(arguments.seeds)]
    jobs.sort(key=lambda job: job.seed)  # whole seeds first: what is stopped half-way has all arms of some
    if not arguments.page:
        names = ["real", *(f"demo-{seed}" for seed in arguments.seeds)]
        with ProcessPoolExecutor(arguments.workers, multiprocessing.get_context("spawn")) as workers:
            for wave in (names, ["blimp"]):
                wait([workers.submit(make_start, data, out, arguments.quick, name) for name in wave])
            wait([workers.submit(run_job, data, out, arguments.quick, job) for job in jobs])
    from benchmarks.reward_studies.page import write_page

    write_page(
        out, arguments.results or (out if arguments.quick else RESULTS), [study(name) for name in STUDIES]
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser("python -m benchmarks.reward_studies", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, default=Path("../shared/data"), help="the data folder (%(default)s)")
    add("--out", type=Path, required=True, help="models and cells; a second call goes on")
    add("--only", nargs="+", choices=STUDIES, default=STUDIES, help="default: all")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="default: 0 1 2 3 4")
    add("--workers", type=int, default=2, help="processes of one thread each (%(default)s)")
    add("--quick", action="store_true", help="few rows and short fits, to see that everything runs")
    add("--page", action="store_true", help="run nothing, write the page of what is there")
    add(
        "--results", type=Path, help="where the page goes; default: benchmarks/results, or --out with --quick"
    )
    return parser.parse_args(argv)


def wait(futures: Sequence[Any]) -> None:
    """Until all are done; what one job's data could not be made of is said, and does not stop the others."""
    for future in as_completed(futures):
        if error := future.exception():
            print(f"FAILED: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main()
