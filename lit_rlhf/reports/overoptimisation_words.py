"""What runs of PPO show, in sentences and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lit_rlhf.reports.foreign_text import one_line
from lit_rlhf.reports.overoptimisation_course import (
    FEWEST_ITERATIONS,
    Course,
    course_of,
    gold_of,
    judge,
    kl_near,
    mean_near,
)
from lit_rlhf.reports.overoptimisation_groups import Group, what_differs
from lit_rlhf.reports.overoptimisation_runs import (
    ENTROPY,
    EXPLAINED,
    KL,
    LENGTH,
    LOWEST_EXPLAINED,
    SCORE,
    Quantity,
    Run,
    Series,
)

MOST_NAMED = 4
"""Groups that a sentence goes through; of more it gives the range."""
_NAME = 60
_KL_AT_START = 0.1
"""Nats a response, and share of the largest KL: less is sampling noise of a policy that is its reference."""
_REFERENCE = "model.init_args.reference"
NONE = "–"


def number(value: float | None, digits: int = 3) -> str:
    """With so many digits that count; a dash for none.

    >>> number(-0.01234), number(12345.6), number(2), number(None)
    ('−0.0123', '12,346', '2', '–')
    """
    if value is None or math.isnan(value):
        return NONE
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"
    return ("0" if text == "-0" else text).replace("-", "−")


def say_run(run: Run) -> str:
    """Whether one run shows over-optimisation, with the numbers behind it."""
    verdict, gold = judge(run), gold_of(run)
    if verdict == "no gold":
        return (
            "No gold reward was logged, so that over-optimisation cannot be seen: the score rises with it and without. "
            "Give the module a gold_reward."
        )
    if verdict == "too short":
        return (
            f"{len(gold)} iterations with a gold reward are too few to tell a fall from noise: {FEWEST_ITERATIONS} are "
            "wanted."
        )
    course = course_of(gold)
    peak = (
        f"highest about iteration {number(course.peak_at)} ({number(course.peak)}, at "
        f"{number(kl_near(run, course.peak_at))} nats of KL)"
    )
    if verdict == "not fallen":
        return f"Gold has not fallen beyond its noise: {peak}, {number(course.last)} at the end."
    score = _score_of(run)
    moved = f"from {number(mean_near(score, course.peak_at))} to {number(course_of(score).last)}"
    lost = f"gold was {peak} and has lost {number(course.lost)} since, to {number(course.last)}"
    if verdict == "collapsed":
        return (
            f"Got worse at what it is trained on: {lost}, but the score fell as well, {moved}. That is instability "
            "rather than over-optimisation."
        )
    return f"Over-optimised: {lost}, while the score went {moved}."


def verdict(runs: Sequence[Run]) -> str:
    """The first sentence of the page."""
    if len(runs) == 1:
        return say_run(runs[0])
    found = [judge(run) for run in runs]
    unknown = found.count("no gold") + found.count("too short")
    if unknown == len(runs):
        return f"Whether they are over-optimised cannot be told of any of the {len(runs)} runs."
    over = found.count("over-optimised")
    said = (
        f"{over or 'None'} of {len(runs)} runs {'is' if over == 1 else 'are'} over-optimised: gold lost beyond its "
        "noise while the score did not fall."
    )
    if worse := found.count("collapsed"):
        said += f" {worse} fell in both."
    if unknown:
        said += f" Of {unknown} it cannot be told."
    return said


def cautions(runs: Sequence[Run]) -> list[str]:
    """What a reader has to know that the figures do not show."""
    said = []
    for run in runs:
        moving = next((name for name in ("every", "decay") if run.setting(f"{_REFERENCE}.{name}")), None)
        if moving:
            said.append(
                f"{run.name}: its reference moves ({moving} {run.setting(f'{_REFERENCE}.{moving}')}), so that KL is no "
                "distance from the start: neither the frontier nor the fit means much here."
            )
        kl = run.get(KL)
        if kl and kl.iterations[0] == 0 and kl.values[0] > max(_KL_AT_START, _KL_AT_START * max(kl.values)):
            said.append(
                f"{run.name}: it starts {number(kl.values[0])} nats from its reference; R of the fit is measured from "
                "there."
            )
        if kl and kl.iterations[0] > 0:
            said.append(
                f"{run.name}: the first iteration logged is {kl.iterations[0]}, which is taken for the start."
            )
        for name, count in run.not_finite.items():
            said.append(f"{run.name}: values of {name} that are not finite, left out: {count:,}.")
        planned = run.setting("trainer.max_epochs")
        if planned and planned.isdigit() and run.iterations < int(planned):
            said.append(
                f"{run.name}: {run.iterations:,} of {int(planned):,} iterations; still going, or stopped."
            )
        if run.settings is None:
            said.append(f"{run.name}: {run.folder / 'config.yaml'} is not there; its settings are not known.")
    return said


def gold_table(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: what differs, how far each run came, and what became of its gold reward."""
    header = ["run", "what differs", "iterations", "updates", "gold: last", "gold: best", "peak about",
              "KL there", "lost since"]  # fmt: skip
    rows = []
    for run, settings in zip(runs, what_differs(runs), strict=True):
        gold = gold_of(run)
        peak = [NONE] * 3
        if len(gold) >= FEWEST_ITERATIONS:
            course = course_of(gold)
            peak = [number(course.peak_at), number(kl_near(run, course.peak_at)), _lost(course)]
        name, updates = one_line(run.name, _NAME), f"{run.updates:,}"
        rows.append([name, settings or NONE, f"{run.iterations:,}", updates, last(gold), best(gold), *peak])
    return _without_empty(header, rows)


def end_table(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: where each run has come to."""
    header = ["run", "score: last", "score: best", "KL: last", "entropy: last", "tokens: last"]
    rows = []
    for run in runs:
        score, kl = _score_of(run), run.get(KL) or run.get(KL, validation=True)
        ends = [last(kl), last(run.get(ENTROPY)), last(run.get(LENGTH))]
        rows.append([one_line(run.name, _NAME), last(score), best(score), *ends])
    return _without_empty(header, rows)


def _without_empty(header: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The same without columns in which no run has anything."""
    kept = [place for place in range(len(header)) if place == 0 or any(row[place] != NONE for row in rows)]
    return [header[place] for place in kept], [[row[place] for place in kept] for row in rows]


def _lost(course: Course) -> str:
    return f"{number(course.lost, 2)} ± {number(course.error, 2)}"


def last(series: Series) -> str:
    """The last value."""
    return number(series.values[-1]) if len(series) else NONE


def best(series: Series) -> str:
    """The highest value and its iteration."""
    if not len(series):
        return NONE
    place = max(range(len(series)), key=series.values.__getitem__)
    return f"{number(series.values[place])} at {series.iterations[place]:,}"


def lowest(series: Series) -> str:
    """The lowest value and its iteration."""
    if not len(series):
        return NONE
    place = min(range(len(series)), key=series.values.__getitem__)
    return f"{number(series.values[place])} at {series.iterations[place]:,}"


def say_course(quantity: Quantity, groups: Sequence[Group]) -> str:
    """How a quantity went, from group to group."""
    means = [(one_line(group.name, _NAME), group.mean(quantity)) for group in groups]
    found = [(name, mean) for name, mean in means if len(mean)]
    said = f"{quantity.meaning[0].upper()}{quantity.meaning[1:]}."
    if not found:
        return f"{said} Measured on validation prompts only."
    if len(found) > MOST_NAMED:
        ends = sorted((mean.values[-1], name) for name, mean in found)
        low, high = ends[0], ends[-1]
        return f"{said} At the end between {number(low[0])} ({low[1]}) and {number(high[0])} ({high[1]})."
    parts = [_went(mean) if len(groups) == 1 else f"{name}: {_went(mean)}" for name, mean in found]
    said = f"{said} {'; '.join(parts)}."
    if quantity is EXPLAINED and any(value < LOWEST_EXPLAINED for _, mean in found for value in mean.values):
        said += " Values below −1 lie under the figure."
    return said


def _went(mean: Series) -> str:
    if len(mean) == 1:
        return f"{last(mean)} at iteration {mean.iterations[0]:,}, the only one"
    if max(mean.values) == min(mean.values):
        return f"{last(mean)} throughout"
    return f"{number(mean.values[0])} → {last(mean)}, highest {best(mean)}, lowest {lowest(mean)}"


def course_rows(quantity: Quantity, runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the numbers behind a figure."""
    rows = []
    for run in runs:
        for validation in (False, True):
            series = run.get(quantity, validation)
            if len(series):
                name = one_line(run.name, _NAME) + (", validation" if validation else "")
                rows.append(
                    [
                        name,
                        number(series.values[0]),
                        last(series),
                        lowest(series),
                        best(series),
                        f"{len(series):,}",
                    ]
                )
    return ["run", "first", "last", "lowest, at", "highest, at", "values"], rows


def _score_of(run: Run) -> Series:
    return run.get(SCORE) or run.get(SCORE, validation=True)
