"""What scale costs: ``python -m benchmarks.scale [--quick] --out FILE.json``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.scale import communication, efficiency, growth, results
from benchmarks.scale.figures import draw_efficiency, draw_growth
from benchmarks.scale.page import page
from benchmarks.scale.results import JSON, Key
from benchmarks.scale.runs import Run, count
from benchmarks.speed.run_ours import quiet
from lit_rlhf.callbacks import write_beside_and_rename

Work = tuple[dict[Key, float], Callable[[], list[JSON]]]
"""The keys of the rows that it gives, with what each is held against, and what gives them."""
PARTS = ("communication", "growth", "efficiency")
REPEATS = 3


def main() -> None:
    """Do what the command line asks for, and what an earlier start has not done."""
    arguments = parser().parse_args()
    quiet()
    asked = arguments.only or PARTS
    rows = results.finished(arguments.out, arguments.quick)
    # what was counted against another model on paper than today's is counted anew
    missing = [
        (theirs, work)
        for theirs, work in works_of(asked, arguments.quick)
        if not all(key in rows and rows[key]["theirs"] == number for key, number in theirs.items())
    ]
    started = time.monotonic()
    for done, (theirs, work) in enumerate(missing):
        rows.update({results.key_of(row): row for row in work()})
        results.write(arguments.out, list(rows.values()))
        passed = time.monotonic() - started
        left = passed / (done + 1) * (len(missing) - done - 1) / 60
        print(
            f"{', '.join(next(iter(theirs)))}: done after {passed:.0f} s; about {left:.0f} min left",
            flush=True,
        )
    found = list(rows.values())
    if "efficiency" in asked:
        conditions = {"quick": arguments.quick}
        found += [_with(efficiency.row(each), conditions) for each in efficiency.predictions()]
    results.write(arguments.out, found)
    pictures = draw(found, arguments.out)
    write_beside_and_rename(arguments.out.with_suffix(".md"), page(found, pictures))
    print(page(found, pictures))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.scale",
        description="Collectives counted and on paper, cost as work grows, and what a cluster would make of an 8B.",
    )
    add = parser.add_argument
    add(
        "--out",
        type=Path,
        required=True,
        help="the rows, as JSON; a page and pictures beside it; a second start goes on with what is missing",
    )
    add("--quick", action="store_true", help="small models and few sizes: does it run at all")
    add("--only", action="append", choices=PARTS, help="this part alone; may be repeated")
    return parser


def works_of(asked: Sequence[str], quick: bool) -> list[Work]:
    """What is to be run."""
    works: list[Work] = []
    if "communication" in asked:
        works += [
            (results.communication_keys(run), partial(_counted, run, quick))
            for run in communication.runs(quick)
        ]
    if "growth" in asked:
        works += [(results.growth_keys(axis), partial(_grown, axis, quick)) for axis in growth.AXES]
    return works


def _counted(run: Run, quick: bool) -> list[JSON]:
    conditions = results.machine(quick)
    return results.communication_rows(run, count(run), conditions)


def _grown(axis: growth.Axis, quick: bool) -> list[JSON]:
    conditions = results.machine(quick)
    repeats = 1 if quick else REPEATS
    points = [
        [growth.measure(number, job.with_seed(repeat)) for repeat in range(repeats)]
        for number, job in axis.points(quick).items()
    ]
    floors = [growth.measure(0, axis.floor.with_seed(repeat)) for repeat in range(repeats)]
    return results.growth_rows(axis, points, floors, conditions)


def draw(rows: Sequence[JSON], out: Path) -> list[str]:
    """Pictures beside `out`; their names."""
    names = []
    for kind, picture in (("predicted, not measured", draw_efficiency), ("measured", draw_growth)):
        chosen = [row for row in rows if row["conditions"]["kind"] == kind]
        if chosen:
            path = out.with_name(f"{out.stem}_{'efficiency' if picture is draw_efficiency else 'growth'}.png")
            picture(path, chosen)
            names.append(path.name)
    return names


def _with(row: JSON, conditions: JSON) -> JSON:
    return {**row, "conditions": {**row["conditions"], **conditions}}


if __name__ == "__main__":
    main()
