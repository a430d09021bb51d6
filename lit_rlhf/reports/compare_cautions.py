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
from lit_rlhf.reports.compare_words import MOST_NAMED, NAME, listed, some_of
from lit_rlhf.reports.foreign_text import one_line

_FEW_SEEDS = 4
_MOSTLY_FINISHED = 0.9
_MORE_WORK = 1.5
"""So many times the CPU seconds of another method are said, where the budget is one of updates."""
_BUDGET_MISSED = 0.1
"""Share of the budget by which a mean may be off before it is said."""


def cautions(results: Results, rows: Sequence[Summary], start: Summary | None) -> list[str]:
    """What a reader should know before believing the numbers.

    Args:
        results: the content of ``results.json``; what it has in ``notes`` comes last, in its own words.
        rows: of :func:`~lit_rlhf.reports.compare_numbers.summarise`.
        start: of :func:`~lit_rlhf.reports.compare_numbers.summarise_start`.
    """
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
    notes = [str(note) for note in results.get("notes") or []]
    said += [*_of_numbers(rows), *_of_length(rows, start), *_of_budget(results, rows)]
    said += (
        [] if any("CPU seconds" in note and "updates" in note for note in notes) else _of_work(results, rows)
    )
    return [*said, *notes]


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
    return said


def _of_length(rows: Sequence[Summary], start: Summary | None) -> list[str]:
    """Whose responses were cut off, in one sentence."""
    cut, of_start = (
        [
            f"{one_line(row.method, NAME)} {100 * (1 - row.finished.mean):.0f}\u00a0%"
            for row in several
            if row.finished is not None and row.finished.mean < _MOSTLY_FINISHED
        ]
        for several in (rows, [start] if start else [])
    )
    if not cut and not of_start:
        return []
    who = listed([*_first_of(cut), *of_start])
    return [
        f"Responses were cut off at the length limit: {who}. Look at {FINISHED.name} before you believe {GOLD.name} "
        "or length."
    ]


def _of_budget(results: Results, rows: Sequence[Summary]) -> list[str]:
    budget = (results.get("settings") or {}).get("budget") or {}
    said = []
    for key, unit in (("seconds", "CPU seconds"), ("updates", "updates")):
        if key not in budget or budget.get("clock") == "wall":
            continue  # which of the seconds that passed were spent in training is not known here
        missed = []
        for row in rows:
            used: Estimate | None = getattr(row, key)
            if used is not None and abs(used.mean - budget[key]) > _BUDGET_MISSED * budget[key]:
                missed.append(f"{one_line(row.method, NAME)} ({used.mean:,.0f} used)")
        if missed:
            said.append(
                f"The budget of {budget[key]:,g} {unit} was not equal for {listed(_first_of(missed))}."
            )
    return said


def _first_of(parts: Sequence[str]) -> list[str]:
    """So many of them as a sentence names, and how many more there are."""
    more = len(parts) - MOST_NAMED
    return [*parts[:MOST_NAMED], f"{more} more"] if more > 0 else list(parts)


def _of_work(results: Results, rows: Sequence[Summary]) -> list[str]:
    """That the same number of updates was not the same work."""
    if "updates" not in ((results.get("settings") or {}).get("budget") or {}):
        return []
    used = [(row.seconds.mean, one_line(row.method, NAME)) for row in rows if row.seconds is not None]
    if not used or max(used)[0] <= _MORE_WORK * min(used)[0]:
        return []
    (least, fastest), (most, slowest) = min(used), max(used)
    return [
        f"A budget of updates is not one of work: {fastest} took {least:,.3g} CPU seconds a run, the least, and "
        f"{slowest} {most:,.3g}, the most."
    ]
