"""What a reader of a comparison should know before believing its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from lit_rlhf.reports.compare_cells import Results, undone
from lit_rlhf.reports.compare_numbers import (
    ACCURACY,
    FINISHED,
    GOLD,
    MEASURES,
    REWARD,
    Summary,
    leading_measure,
)
from lit_rlhf.reports.compare_resampling import Estimate, widening
from lit_rlhf.reports.compare_words import MOST_NAMED, NAME
from lit_rlhf.reports.foreign_text import one_line

_FEW_SEEDS = 4
_MOSTLY_FINISHED = 0.9
_BUDGET_MISSED = 0.1
"""Share of the budget by which a mean may be off before it is said."""


def cautions(results: Results, rows: Sequence[Summary]) -> list[str]:
    """What a reader should know before believing the numbers."""
    said = []
    left = undone(results)
    if left:
        total = sum(row.seeds_done for row in rows) + len(left)
        said.append(
            f"{len(left)} of {total} runs are not done; means are over those that are. They are listed below."
        )
    done = [row for row in rows if row.seeds_done]
    alone = [row.method for row in done if row.seeds_done == 1]
    if alone:
        of = "every method" if len(alone) == len(done) else some_of(alone)
        said.append(
            f"There is one seed of {of}: intervals are by evaluation prompts alone and say nothing of what another "
            "seed would give."
        )
    few = [row for row in done if 1 < row.seeds_done < _FEW_SEEDS]
    if few:
        seeds = min(row.seeds_done for row in few)
        said.append(
            f"{seeds} seeds say little of how far seeds differ: that part of the intervals is widened "
            f"{widening(seeds):.1f} times, and more seeds would make them much narrower."
        )
    leading = leading_measure(results)
    if leading == REWARD:
        said.append(
            "There is no gold: methods are compared by the reward, which some may have been trained to please."
        )
    if leading == ACCURACY:
        said.append(
            "There is neither gold nor a reward: held-out accuracy says how methods rank two given responses, not "
            "how good the responses are that they write."
        )
    return [*said, *_of_numbers(rows), *_of_budget(results, rows)]


def _of_numbers(rows: Sequence[Summary]) -> list[str]:
    said = []
    by_row = [
        number for row in rows for measure in MEASURES if (number := row.get(measure)) and number.by_row
    ]
    if by_row:
        said.append(
            f"Some intervals rest on {min(number.prompts for number in by_row)} different prompts; under 20, rows are "
            "resampled as if they were independent, and intervals are likely too narrow."
        )
    for row in rows:
        for measure in MEASURES:
            number = row.get(measure)
            if number is not None and number.left_out:
                said.append(
                    f"{one_line(row.method, NAME)}: {number.left_out:,} numbers of {measure.name} are missing and in "
                    "no mean."
                )
        if row.finished is not None and row.finished.mean < _MOSTLY_FINISHED:
            said.append(
                f"{one_line(row.method, NAME)}: {1 - row.finished.mean:.0%} of the responses were cut off at the "
                f"limit; look at {FINISHED.name} before you believe its {GOLD.name} or length."
            )
    return said


def _of_budget(results: Results, rows: Sequence[Summary]) -> list[str]:
    budget = (results.get("settings") or {}).get("budget") or {}
    said = []
    for key, unit in (("seconds", "CPU seconds"), ("updates", "updates")):
        if key not in budget or budget.get("clock") == "wall":
            continue  # which of the seconds that passed were spent in training is not known here
        for row in rows:
            used: Estimate | None = getattr(row, key)
            if used is not None and abs(used.mean - budget[key]) > _BUDGET_MISSED * budget[key]:
                said.append(
                    f"{one_line(row.method, NAME)} used {used.mean:,.0f} of {budget[key]:,g} {unit}: the budget was "
                    "not equal for it."
                )
    return said


def some_of(names: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    named = ", ".join(one_line(name, NAME) for name in names[:MOST_NAMED])
    more = len(names) - MOST_NAMED
    return f"{named} and {more} more" if more > 0 else named
