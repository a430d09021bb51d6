"""What the intervals of an evaluation were resampled by, in words: prompts, or rows where prompts are too few."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from lit_rlhf.metrics.evaluation import Evaluation
from lit_rlhf.metrics.groups import Group
from lit_rlhf.metrics.intervals import FEWEST_PROMPTS, Interval


def is_by_row(interval: Interval) -> bool:
    """Whether it rests on too few prompts to resample them."""
    return interval.unit == "row"


def mark_of(interval: Interval) -> str:
    """What stands behind an interval that is by row."""
    return " by row" if is_by_row(interval) else ""


def interval_note(evaluation: Evaluation) -> str:
    """By what the intervals are."""
    by_row = [is_by_row(interval) for interval in _intervals(evaluation)]
    if not any(by_row):
        return "95% intervals are by prompt: whole prompts are resampled."
    rows = f"whole rows are resampled, since there are fewer than {FEWEST_PROMPTS} prompts"
    if all(by_row):
        return f"95% intervals are by row: {rows}."
    return f"95% intervals are by prompt: whole prompts are resampled. Where it says “by row”, {rows}."


def cautions_of_rows(evaluation: Evaluation) -> list[str]:
    """That intervals by row are likely too narrow; empty where there are none."""
    by_row = [is_by_row(interval) for interval in _intervals(evaluation)]
    warning = "taken by row, as if rows were independent, and are likely too narrow."
    if not any(by_row):
        return []
    if all(by_row):
        return [f"There are only {evaluation.prompts} different prompts. Intervals are {warning}"]
    return [
        f"{sum(by_row)} of the {len(by_row)} intervals, marked “by row”, rest on fewer than {FEWEST_PROMPTS} "
        f"different prompts: they are {warning}"
    ]


def _intervals(evaluation: Evaluation) -> list[Interval]:
    """All of them, the groups' among them."""
    found: list[Interval] = []
    for field in fields(evaluation):
        value = getattr(evaluation, field.name)
        several: Iterable[object] = [value]
        if isinstance(value, dict | list):
            several = value.values() if isinstance(value, dict) else value
        for each in several:
            interval = each.accuracy if isinstance(each, Group) else each
            if isinstance(interval, Interval):
                found.append(interval)
    return found
