"""A comparison on the terminal: a line a method, and what failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lit_rlhf.reports.compare_numbers import (
    ACCURACY,
    GOLD,
    KL,
    REWARD,
    SECONDS,
    TOKENS,
    UPDATES,
    Measure,
    Summary,
    column_decimals,
    summarise,
    summarise_start,
    written,
)

SHOWN = (ACCURACY, GOLD, REWARD, KL, TOKENS, UPDATES, SECONDS)
HEADINGS = {"accuracy": "accuracy %", "kl": "KL", "tokens": "tokens", "seconds": "CPU s"}


def table_of(results: Mapping[str, Any]) -> list[str]:
    """Lines: the start and each method, every number a mean over seeds with its 95 % interval; measured ones only."""
    start = summarise_start(results)
    rows = [*([start] if start is not None else []), *summarise(results)]
    measures = [measure for measure in SHOWN if any(row.get(measure) is not None for row in rows)]
    columns = [["method", *(row.method for row in rows)], ["seeds", *(seeds_of(row, start) for row in rows)]]
    columns += [[HEADINGS.get(measure.key, measure.name), *cells_of(rows, measure)] for measure in measures]
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(cell.ljust(width) if not place else cell.rjust(width) for place, (cell, width) in
                  enumerate(zip(line, widths, strict=True))).rstrip()
        for line in zip(*columns, strict=True)
    ]  # fmt: skip


def seeds_of(row: Summary, start: Summary | None) -> str:
    """``3``, or ``2 of 3``."""
    if row is start:
        return ""
    return (
        str(row.seeds_done) if row.seeds_done == row.seeds_asked else f"{row.seeds_done} of {row.seeds_asked}"
    )


def cells_of(rows: list[Summary], measure: Measure) -> list[str]:
    """A column's numbers, written alike."""
    found = [row.get(measure) for row in rows]
    decimals = column_decimals(measure, found)

    def cell(place: int) -> str:
        number = found[place]
        if number is None:
            return "-"
        mean = written(number.mean, measure, decimals)
        if number.low is None or number.high is None:
            return mean
        return f"{mean} [{written(number.low, measure, decimals)}, {written(number.high, measure, decimals)}]"

    return [cell(place) for place in range(len(rows))]


def failures_of(results: Mapping[str, Any]) -> list[str]:
    """A line for each cell that failed."""
    return [
        f"{method['name']}/seed-{cell['seed']} failed: {cell['why']}"
        for method in results["methods"]
        for cell in method["seeds"]
        if cell["state"] == "failed"
    ]
