"""Rows of the results: what was counted, predicted and measured, each with its conditions."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.scale.collectives import Tallies, sent
from benchmarks.scale.communication import on_paper, ratio
from benchmarks.scale.growth import Axis, Point, fit, quantities
from benchmarks.scale.runs import Counted, Run
from benchmarks.speed.conditions import commit, load, processor
from lit_rlhf.callbacks import write_beside_and_rename

JSON = dict[str, Any]
Key = tuple[str, str, str]
CONVENTION = (
    "bytes that one rank sends in a ring of n: (n - 1)/n of what an all-gather gives or a reduce-scatter takes, "
    "2 (n - 1)/n of an all-reduce, (n - 1)/n of a broadcast; objects are pickled"
)


def machine(quick: bool) -> JSON:
    """Where and when; the load has what else runs there."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "lightning", "transformers")}
    return {
        "quick": quick,
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": round(load(), 2),
        "threads": 1,
        "python": platform.python_version(),
        "versions": versions,
    }


def setting(run: Run) -> str:
    """How it is spread, in words."""
    words: list[str] = [run.strategy]
    words += ["LoRA"] if run.lora else []
    words += [] if run.reshard_after_forward else ["reshard_after_forward false"]
    words += ["whole_while_sampling"] if run.whole_while_sampling else []
    words += [run.precision] if run.precision != "32-true" else []
    words += [f"{run.accumulate} micro-batches"] if run.accumulate > 1 else []
    return ", ".join(words)


def communication_keys(run: Run) -> dict[Key, float]:
    """Of the rows of a run, with what paper says of each."""
    paper, size = on_paper(run), f"{run.size}, {run.ranks} ranks"
    stages = {"step": paper.step} | ({"rollout": paper.rollout} if run.phase == "ppo" else {})
    return {
        (f"{run.phase} bytes a {stage}", f"model on paper, {setting(run)}", size): _rounded(
            sent(tallies, run.ranks)
        )
        for stage, tallies in stages.items()
    }


def communication_rows(run: Run, counted: Counted, conditions: JSON) -> list[JSON]:
    """What a rank sent a step, and a rollout, against paper; a ratio of 1 is what it should be."""
    rows = []
    paper = on_paper(run)
    for (work, against, size), theirs in communication_keys(run).items():
        stage = work.rpartition(" ")[2]
        found, expected = getattr(counted, stage), getattr(paper, stage)
        share = _rounded(ratio(found, expected, run.ranks))
        rows.append(
            {
                "work": work,
                "size": size,
                "against": against,
                "ours": _rounded(sent(found, run.ranks)),
                "theirs": theirs,
                "ratio": share,
                "unit": "bytes sent by a rank",
                "repeats": 1,
                "spread": [share, share],
                "conditions": {
                    "kind": "counted",
                    **conditions,
                    "convention": CONVENTION,
                    "strategy": setting(run),
                    "ranks": run.ranks,
                    "precision": run.precision,
                    "rows_of_a_micro_batch_on_a_rank": run.rows,
                    "tokens": {"prompt": run.prompt, "response": run.response},
                    "counted": by_purpose(found),
                    "on_paper": by_purpose(expected),
                },
            }
        )
    return rows


def by_purpose(tallies: Tallies) -> JSON:
    """Calls and payload of each kind of collective and what it is for."""
    return {
        f"{kind} of {purpose}": {"calls": _rounded(tally.calls), "payload_bytes": _rounded(tally.payload)}
        for (kind, purpose), tally in sorted(tallies.items())
    }


def growth_keys(axis: Axis) -> dict[Key, float]:
    """Of the rows of an axis, with the exponent that each is held against."""
    return {(f"{axis.name}: {quantity}", "linear", axis.grows): 1.0 for quantity in _FIELD}


def growth_rows(
    axis: Axis, points: Sequence[Sequence[Point]], floors: Sequence[Point], conditions: JSON
) -> list[JSON]:
    """The exponents of time and memory; `points` has the repeats of each size."""
    middle = [_middle(repeats) for repeats in points]
    floor = _middle(floors)
    rows = []
    found = quantities(middle, floor)
    for ((work, against, size), theirs), (quantity, (unit, values)) in zip(
        growth_keys(axis).items(), found.items(), strict=True
    ):
        line = fit([point.number for point in middle], values)
        rows.append(
            {
                "work": work,
                "size": size,
                "against": against,
                "ours": _rounded(line.exponent),
                "theirs": theirs,
                "ratio": _rounded(1 / line.exponent),
                "unit": "exponent",
                "repeats": len(floors),
                "spread": [_rounded(line.exponent - line.error), _rounded(line.exponent + line.error)],
                "conditions": {
                    "kind": "measured",
                    **conditions,
                    "grows": axis.grows,
                    "expected": axis.expected if quantity == "time" else "1",
                    "exponent_of_the_two_largest": _rounded(line.last),
                    "spread_is": "exponent less and plus its standard error",
                    "unit_of_points": unit,
                    "points": [
                        [point.number, _rounded(value)] for point, value in zip(middle, values, strict=True)
                    ],
                    "repeats_of_points": [
                        [_rounded(getattr(each, _FIELD[quantity])) for each in repeats] for repeats in points
                    ],
                    "floor_mb": _rounded(floor.megabytes),
                    "job": str(next(iter(axis.jobs.values()))),
                },
            }
        )
    return rows


_FIELD = {"time": "seconds", "memory": "megabytes"}


def _middle(repeats: Sequence[Point]) -> Point:
    return Point(
        repeats[0].number,
        statistics.median(each.seconds for each in repeats),
        statistics.median(each.megabytes for each in repeats),
    )


def key_of(row: JSON) -> Key:
    return row["work"], row["against"], row["size"]


def finished(out: Path, quick: bool) -> dict[Key, JSON]:
    """The rows that `out` holds from an earlier start, but for predictions, which are made anew.

    Raises:
        ValueError: they are of the other kind of run, ``--quick`` or not.
    """
    if not out.exists():
        return {}
    rows = {
        key_of(row): row
        for row in json.loads(out.read_text())
        if row["conditions"]["kind"] != "predicted, not measured"
    }
    for (work, _, size), row in rows.items():
        if row["conditions"]["quick"] != quick:
            raise ValueError(
                f"{out}: expected rows {'with' if quick else 'without'} --quick, found {work!r}, {size}, "
                f"{'without' if quick else 'with'}. Give another --out."
            )
    return rows


def write(out: Path, rows: Sequence[JSON]) -> None:
    """Write the rows so that a stop leaves the old file or the new one."""
    write_beside_and_rename(out, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def _rounded(number: float) -> float:
    return float(f"{number:.6g}")
