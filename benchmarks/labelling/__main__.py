"""Many annotators at once: ``python -m benchmarks.labelling [--annotators 50] [--seconds 120] [--quick] --out F.json``.

Starts ``lit-rlhf label serve`` on a file of its own, lets simulated annotators judge over loopback, each with a session
of her own, stops the server, and holds the file against what was acknowledged. Leaves with exit code 1 where a
judgement was lost, doubled, changed, or given beyond the overlap.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import math
import resource
import sqlite3
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.labelling.annotators import Seen, work_all
from benchmarks.labelling.check import FAULTS, check
from benchmarks.labelling.server import Server, make_store
from benchmarks.scale.results import machine
from benchmarks.speed.conditions import load
from lit_rlhf.callbacks import write_beside_and_rename
from lit_rlhf.labelling.items import Settings

OVERLAP = 3
AT_ONCE_MS = 100.0
"""What people feel as at once: Nielsen 1993, "Usability Engineering", section 5.5."""
PACKAGES = ("lit-rlhf", "starlette", "uvicorn", "aiohttp")


def main() -> None:
    """Measure, check and write."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.labelling",
        description="Many annotators at once, over loopback: how fast the server answers, and whether every judgement "
        "that it acknowledged is in its file once.",
    )
    parser.add_argument("--annotators", type=int, default=50, metavar="N", help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=120.0, metavar="S", help="(%(default)g)")
    parser.add_argument(
        "--think", type=float, default=1.0, metavar="S",
        help="mean seconds from a task to its judgement; people take ten times as long (%(default)g)",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="5 annotators for 5 seconds; no result to keep")
    parser.add_argument("--out", type=Path, required=True, metavar="F.json")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.annotators, arguments.seconds, arguments.think = 5, 5.0, 0.2
    # half as many again as they can judge
    items = math.ceil(1.5 * arguments.annotators * arguments.seconds / arguments.think / OVERLAP)
    load_before = load()
    with tempfile.TemporaryDirectory() as place:
        store = Path(place) / "labels.db"
        make_store(store, items, Settings(overlap=OVERLAP))
        with Server(store) as server:
            started, ours = server.cpu_seconds(), client_cpu_seconds()
            seen = asyncio.run(
                work_all(server.address, arguments.annotators, arguments.seconds, arguments.think)
            )
            used = {
                "server_cpu_seconds": round(server.cpu_seconds() - started, 2),
                "server_peak_mib": round(server.peak_mib(), 1),
                "annotators_cpu_seconds": round(client_cpu_seconds() - ours, 2),
            }
        used["server_cpu_ms_a_judgement"] = round(1000 * used["server_cpu_seconds"] / len(seen.submits), 2)
        checked = check(store, seen, OVERLAP)
        used["file_mib"] = round(store.stat().st_size / 2**20, 1)
        said = server.said
    if server.code != 0:
        print(f"the server left with exit code {server.code}:\n{''.join(said)}")
    conditions = {
        **machine(arguments.quick),
        "load": [round(load_before, 2), round(load(), 2)],
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "sqlite": sqlite3.sqlite_version,
        "clock": "wall seconds at the annotators, who share one process and the machine with the server",
        "annotators": arguments.annotators,
        "seconds": arguments.seconds,
        "mean_think_seconds": arguments.think,
        "items": items,
        "overlap": OVERLAP,
        **used,
        "resent": seen.resent,
        "errors": dict(seen.errors),
        "checked": checked,
        "server_exit_code": server.code,
    }
    rows = rows_of(seen, arguments.annotators, arguments.seconds, arguments.think, conditions)
    write_beside_and_rename(arguments.out, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    print(table(rows))
    faults = {name: checked[name] for name in FAULTS if checked[name]}
    if faults or server.code != 0:
        raise SystemExit(f"faults: {faults}, exit code of the server {server.code}")


def rows_of(
    seen: Seen, annotators: int, seconds: float, think: float, conditions: dict[str, Any]
) -> list[dict[str, Any]]:
    """Percentiles of both requests, and the pace; a ratio over 1 is better than what it is held against."""
    size = f"{annotators} annotators, {seconds:g} s"
    rows = []
    for work, times in (("submit", seen.submits), ("fetch a task", seen.fetches)):
        for percent in (50, 95, 99):
            found = 1000 * percentile(times, percent)
            rows.append(
                {
                    "work": f"label: {work}, p{percent}",
                    "size": size,
                    "against": "felt as at once, 100 ms",
                    "ours": round(found, 2),
                    "theirs": AT_ONCE_MS,
                    "ratio": round(AT_ONCE_MS / found, 2),
                    "unit": "ms",
                    "repeats": len(times),
                    "spread": [round(1000 * min(times), 2), round(1000 * max(times), 2)],
                    "conditions": conditions,
                }
            )
    pace, free = len(seen.submits) / seconds, annotators / think
    rows.append(
        {
            "work": "label: submits a second",
            "size": size,
            "against": "the annotators' own pace",
            "ours": round(pace, 2),
            "theirs": round(free, 2),
            "ratio": round(pace / free, 3),
            "unit": "judgements/s",
            "repeats": 1,
            "spread": None,
            "conditions": conditions,
        }
    )
    return rows


def percentile(times: list[float], percent: int) -> float:
    """The time that `percent` of a hundred do not exceed, between neighbours by proportion."""
    return statistics.quantiles(times, n=100, method="inclusive")[percent - 1]


def table(rows: list[dict[str, Any]]) -> str:
    """What is printed."""
    conditions = rows[0]["conditions"]
    lines = [f"{row['work']:<28}{row['ours']:>10} {row['unit']}" for row in rows]
    shown = (
        *("server_cpu_seconds", "server_cpu_ms_a_judgement", "server_peak_mib", "annotators_cpu_seconds"),
        *("load", "errors", "checked"),
    )
    return "\n".join([*lines, *(f"{name}: {conditions[name]}" for name in shown)])


def client_cpu_seconds() -> float:
    """User and system time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
