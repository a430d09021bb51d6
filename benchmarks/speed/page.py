"""Rows of the speed benchmarks as one page: ``python -m benchmarks.speed.page FILE.json … > results/speed.md``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed.job import JSON

TITLE = "# Speed and memory against TRL, generate and padded rows"
HEAD = ["work", "size", "against", "ours", "theirs", "unit", "ratio", "least and most of a repeat", "repeats"]
SAME = ("processor", "threads", "clock", "device", "dtype", "model", "clip", "gradient_checkpointing")
"""Conditions that all rows of a page are to share."""


def page(rows: Sequence[JSON]) -> str:
    """A table, what all rows were measured under, and what each work was.

    Raises:
        ValueError: the rows were measured on different machines, or with different settings.
    """
    shared = shared_conditions(rows)
    lines = [TITLE, "", "More than 1: we are better. Medians; see the JSON files beside for each repeat.", ""]
    lines += [cells(HEAD), cells(["---"] * len(HEAD)), *(cells(table_row(row)) for row in rows), ""]
    lines += [f"- {name}: {value}" for name, value in shared.items()]
    lines += ["", "| work | size | lengths | what is counted |", "| --- | --- | --- | --- |"]
    works = {
        (row["work"], row["size"], lengths(row["conditions"]), row["conditions"].get("note", "")): None
        for row in rows
    }
    return "\n".join([*lines, *map(cells, works)]) + "\n"


def lengths(conditions: JSON) -> str:
    """What was asked for, and what came out where responses were sampled."""
    found = conditions.get("response_lengths")
    if found is None:
        return str(conditions["lengths"])
    repeats = found["ours"]
    mean = sum(each["mean"] for each in repeats) / len(repeats)
    largest = max(each["largest"] for each in repeats)
    return f"{conditions['lengths']} (found: mean {mean:.1f}, largest {largest})"


def shared_conditions(rows: Sequence[JSON]) -> JSON:
    """What the rows have in common, and the ranges of what may differ."""
    found: JSON = {}
    for name in SAME:
        values = {json.dumps(row["conditions"][name]) for row in rows if row["conditions"][name] is not None}
        sizes_may_differ = name == "model"
        if len(values) > 1 and not sizes_may_differ:
            raise ValueError(f"rows of one page differ in {name}: {', '.join(sorted(values))}")
        found[name.replace("_", " ")] = ", ".join(str(json.loads(value)) for value in sorted(values))
    sides = [side for row in rows for side in row["conditions"]["versions"].values()]
    versions = sorted({pair for side in sides for pair in side.items()})
    loads = [load for row in rows for load in row["conditions"]["load"]]
    found["versions"] = ", ".join(f"{name} {version}" for name, version in versions)
    found["load at the start of the repeats"] = f"{min(loads)} to {max(loads)}"
    found["measured"] = ", ".join(
        sorted({f"{row['conditions']['date']}, commit {row['conditions']['commit']}" for row in rows})
    )
    return found


def table_row(row: JSON) -> list[str]:
    """A row's numbers as they stand in the table."""
    low, high = row["spread"]
    numbers = [f"{row['ours']:g}", f"{row['theirs']:g}", row["unit"], f"{row['ratio']:.2f}"]
    return [
        row["work"],
        row["size"],
        row["against"],
        *numbers,
        f"{low:.2f} to {high:.2f}",
        str(row["repeats"]),
    ]


def cells(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


if __name__ == "__main__":
    print(page([row for name in sys.argv[1:] for row in json.loads(Path(name).read_text())]), end="")
