"""``python -m benchmarks.direct --out FILE.json``: run what is not done yet, then write the page beside it."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.reward_studies.cells import Cells, Job

PARTS = ("contest", "online", "longer", "rankings", "votes")


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are too small for a second thread
    arguments = parse(argv)
    work = (arguments.work or arguments.out.with_name(f"{arguments.out.stem}-work")).resolve()
    work = work / ("quick" if arguments.quick else "full")
    if not arguments.page:
        run(arguments, work)
    if not arguments.sweep and not arguments.no_page:
        from benchmarks.direct.page import write_page

        write_page(work, arguments.out)


def run(arguments: argparse.Namespace, work: Path) -> None:
    """Whole seeds first: what is stopped half-way has everything of some seeds."""
    from benchmarks.direct.starts import Starts

    starts = Starts(arguments.data.resolve(), work, arguments.quick)
    for seed in arguments.seeds:
        for name in arguments.parts:
            part = importlib.import_module(f"benchmarks.direct.{name}")
            jobs = part.jobs([seed])
            if arguments.sweep:
                jobs = list(dict.fromkeys(Job("sweep", job.world, "clean", seed) for job in jobs))
            for job in jobs:
                wanted = job.world in (arguments.worlds or [job.world])
                if wanted and job.condition in (arguments.conditions or [job.condition]):
                    (part.sweep if arguments.sweep else part.run)(job, starts, Cells(work, job))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser("python -m benchmarks.direct", description=__doc__)
    add: Any = parser.add_argument
    add("--out", type=Path, required=True, help="results; the page and the figures go beside it")
    add("--data", type=Path, default=Path("../shared/data"), help="the data folder (%(default)s)")
    add("--work", type=Path, help="models and cells; default: beside --out. A second call goes on")
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    add("--worlds", nargs="+", help="default: all")
    add("--conditions", nargs="+", help="default: all")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="default: 0 1 2 3 4")
    add("--quick", action="store_true", help="short fits, to see that everything runs")
    add(
        "--sweep",
        action="store_true",
        help="run the tries that settings are chosen from; with seeds of 100 and more",
    )
    add("--page", action="store_true", help="run nothing, write the page of what is there")
    add("--no-page", action="store_true", help="run alone")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
