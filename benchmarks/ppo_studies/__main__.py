"""``python -m benchmarks.ppo_studies [STUDY...] --out DIR``: run what is not done yet; `page` writes the page of it."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.reward_studies.cells import Cells, Job

STUDIES = ("frontier", "real_text", "ptx", "trl", "ablation")
RESULTS = Path(__file__).parents[1] / "results"


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    os.environ.setdefault(
        "OMP_NUM_THREADS", "1"
    )  # before torch is imported: models are too small for a second
    arguments = parse(argv)
    out = arguments.out.resolve() / ("quick" if arguments.quick else "full")
    wanted = [name for name in arguments.studies if name != "page"]
    if wanted or not arguments.studies:
        run(wanted or STUDIES, arguments.seeds, arguments.data.resolve(), out, arguments.quick)
    if "page" in arguments.studies or not arguments.studies:
        from benchmarks.ppo_studies.page import write_page

        results = arguments.results or (out if arguments.quick else RESULTS)
        write_page(out, results, [study(name) for name in STUDIES])


def run(names: Sequence[str], seeds: Sequence[int], data: Path, out: Path, quick: bool) -> None:
    """Whole seeds first: what is stopped half-way has all studies of some seeds."""
    from benchmarks.ppo_studies.starts import Starts

    remember_code(out)
    starts = Starts(data, out, quick)
    for seed in seeds:
        for name in names:
            for job in study(name).jobs([seed]):
                starts.make(start_of(job))
                study(name).run(job, starts, Cells(out, job))


def remember_code(out: Path) -> None:
    """Add what the package's code is now to those that cells were run with: ``OUT/code.json``."""
    import lit_rlhf

    folder = Path(lit_rlhf.__file__).parent
    sums = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        sums.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    out.mkdir(parents=True, exist_ok=True)
    seen = json.loads((out / "code.json").read_text()) if (out / "code.json").exists() else []
    if sums.hexdigest()[:16] not in seen:
        (out / "code.json").write_text(json.dumps([*seen, sums.hexdigest()[:16]]))


def start_of(job: Job) -> str:
    """The name of what a job starts from."""
    return f"{'demo' if job.world == 'demo' else 'real'}-{job.seed}"


def study(name: str) -> Any:
    """The module of a study: NAME, ARMS, METRICS, HOW, jobs and run."""
    return importlib.import_module(f"benchmarks.ppo_studies.{name}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser("python -m benchmarks.ppo_studies", description=__doc__)
    add = parser.add_argument
    add("studies", nargs="*", metavar="STUDY", help=f"{', '.join(STUDIES)}, page; default: all and the page")
    add("--data", type=Path, default=Path("../shared/data"), help="the data folder (%(default)s)")
    add("--out", type=Path, required=True, help="models and cells; a second call goes on")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="default: 0 1 2 3 4")
    add("--quick", action="store_true", help="small models and short runs, to see that everything runs")
    add(
        "--results",
        type=Path,
        help="where the page goes; default: benchmarks/results, or OUT/quick with --quick",
    )
    arguments = parser.parse_args(argv)
    unknown = sorted(set(arguments.studies) - {*STUDIES, "page"})
    if unknown:
        parser.error(f"expected studies of {', '.join(STUDIES)}, page, found {', '.join(unknown)}")
    return arguments


if __name__ == "__main__":
    main()
