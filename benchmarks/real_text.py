"""All four phases on real text, through the command line: ``python -m benchmarks.real_text --data DIR --out DIR``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.command_line import Runner
from benchmarks.measure import measure
from benchmarks.prepare import prepare
from benchmarks.render import render
from benchmarks.steps import PHASES

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run what is not done yet; when all is done, write the results."""
    parser = argparse.ArgumentParser("python -m benchmarks.real_text", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, default=Path("../shared/data"), help="the data folder (%(default)s)")
    add("--out", type=Path, required=True, help="run folders and records; a second call continues")
    add("--phases", nargs="+", choices=PHASES, default=list(PHASES), help="default: all, in order")
    add("--results", type=Path, default=RESULTS, help="the folder that the results are written into")
    arguments = parser.parse_args()
    data, out = arguments.data.resolve(), arguments.out.resolve()
    prepare(data, out / "files")
    runner = Runner(data, out)
    for phase in arguments.phases:
        for step in PHASES[phase]:
            runner.run(step)
    records = [runner.record(step.name) for steps in PHASES.values() for step in steps]
    if not all(record and record.done for record in records):
        print("no results yet: run the other phases too")
        return
    results = measure(data, runner)
    (arguments.results / "real_text.json").write_text(
        json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    )
    (arguments.results / "real_text.md").write_text(render(results))
    print(f"written: {arguments.results}/real_text.md")


if __name__ == "__main__":
    main()
