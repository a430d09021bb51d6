"""What the page of a comparison says: its first sentence, what is shown and what is not, how numbers are made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from lit_rlhf.reports.compare_cells import Results, asked_seeds
from lit_rlhf.reports.compare_numbers import (
    KL,
    MEASURES,
    Difference,
    Measure,
    Summary,
    column_decimals,
    leading_measure,
    written,
)
from lit_rlhf.reports.compare_resampling import Estimate
from lit_rlhf.reports.foreign_text import one_line

NAME = 60
"""Characters of a method's name that are shown."""
MOST_NAMED = 5
"""Methods that a sentence gives the numbers of; of more they are left to the table."""
_KL_DECIMALS = 2
_ROUNDING = 1e-9
"""Means that are no further apart are equal."""


def verdict(results: Results, rows: Sequence[Summary], differences: Sequence[Difference]) -> str:
    """The result in one sentence.

    Args:
        results: the content of ``results.json``.
        rows: of :func:`~lit_rlhf.reports.compare_numbers.summarise`.
        differences: of :func:`~lit_rlhf.reports.compare_numbers.differences`.
    """
    leading = leading_measure(results)
    have = [row for row in rows if leading is not None and row.get(leading)]
    if leading is None or not have:
        done, asked = sum(row.seeds_done for row in rows), len(rows) * len(asked_seeds(results))
        return f"No method has been measured yet: {done} of {asked} runs are done."
    best = max(have, key=lambda row: _estimate(row, leading).mean)
    what = f"{leading.name}, {with_interval(_estimate(best, leading), leading)}"
    seeds = max(row.seeds_done for row in have)
    over = "on one seed alone" if seeds == 1 else f"over {seeds} seeds"
    name = one_line(best.method, NAME)
    if len(have) == 1:
        return f"{name} alone has {what}{_at(best)}, {over}: there is nothing to compare it with."
    among = f"{len(have)} of {len(rows)}" if len(have) < len(rows) else f"{len(have)}"
    of = f"Of the {among} methods with {leading.name}, all from one start,"
    equal = [row for row in have if _is_equal(_estimate(row, leading), _estimate(best, leading))]
    if len(equal) > 1:
        return f"{of} {_equals(equal, len(have), leading)}, {over}."
    return (
        f"{of} {name} has the highest {what}{_at(best)}, {over}; "
        f"{_beside_the_first(best, rows[0], leading, differences)}."
    )


def _equals(equal: Sequence[Summary], methods: int, leading: Measure) -> str:
    """That several are highest, or that all are equal."""
    found = _estimate(equal[0], leading)
    value = written(found.mean, leading, column_decimals(leading, [found])) + (" %" if leading.share else "")
    if len(equal) == methods:
        everybody = "both" if methods == 2 else f"all {methods}"
        return f"no one has the highest {leading.name}: {everybody} have {value}"
    return f"{some_of([row.method for row in equal])} are highest, with equal {leading.name}, {value}"


def _is_equal(one: Estimate, other: Estimate) -> bool:
    return math.isclose(one.mean, other.mean, rel_tol=_ROUNDING, abs_tol=_ROUNDING)


def _at(row: Summary) -> str:
    """How far a method has moved; more than two decimals of a KL are noise."""
    if row.kl is None:
        return ""
    decimals = min(_KL_DECIMALS, column_decimals(KL, [row.kl]))
    return f" at a KL of {written(round(row.kl.mean, decimals), KL, decimals)} nats"


def _beside_the_first(
    best: Summary, first: Summary, leading: Measure, differences: Sequence[Difference]
) -> str:
    of_leading = [each for each in differences if each.measure == leading]
    name = one_line(first.method, NAME)
    if best.method == first.method:
        compared = [each for each in of_leading if each.estimate is not None]
        below = sum(each.shown == "below" for each in compared)
        rest = len(compared) - below
        said = (
            [f"{below} of the others {'is' if below == 1 else 'are'} shown to be below it"] if below else []
        )
        said += [f"between it and {rest} of the others nothing is shown"] if rest else []
        return ", and ".join(said) or "no other was trained with the same seeds"
    (beside,) = [each for each in of_leading if each.method == best.method]
    if beside.estimate is None:
        return f"it cannot be compared with {name}, the first, on the same seeds"
    by = signed_interval(beside.estimate, leading, column_decimals(leading, _estimates(of_leading)))
    if beside.shown == "nothing":
        return f"between it and {name}, the first, nothing is shown, {by}"
    return f"it is {beside.shown} {name}, the first, by {by}"


def what_is_shown(differences: Sequence[Difference], measure: Measure) -> list[str]:
    """Sentences on the differences in one quantity: what is above, what is below, of what nothing is shown.

    Of more than a few methods in one sentence the intervals are left to the table.
    """
    found = [each for each in differences if each.measure == measure and each.estimate is not None]
    if not found:
        return []
    first, decimals = one_line(found[0].against, NAME), column_decimals(measure, _estimates(found))
    said = []
    for shown in ("above", "below"):
        each = [one for one in found if one.shown == shown]
        if each:
            verb = "is" if len(each) == 1 else "are"
            said.append(f"In {measure.name}, {_with_intervals(each, decimals)} {verb} {shown} {first}.")
    nothing = [one for one in found if one.shown == "nothing"]
    if nothing:
        said.append(
            f"In {measure.name}, nothing is shown between {first} and {_with_intervals(nothing, decimals)}."
        )
    return said


def _with_intervals(differences: Sequence[Difference], decimals: int) -> str:
    return listed(
        f"{one_line(one.method, NAME)} ({signed_interval(one.estimate, one.measure, decimals)})"
        if len(differences) <= MOST_NAMED
        else one_line(one.method, NAME)
        for one in differences
        if one.estimate is not None
    )


def listed(parts: Iterable[str]) -> str:
    """Parts of a sentence, the last after an "and".

    >>> listed(["dpo"]), listed(["dpo", "ipo", "kto"])
    ('dpo', 'dpo, ipo and kto')
    """
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def some_of(names: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    named = [one_line(name, NAME) for name in names[:MOST_NAMED]]
    more = len(names) - MOST_NAMED
    return listed([*named, f"{more} more"] if more > 0 else named)


def comparisons_made(*several: Sequence[Difference]) -> str:
    """How many intervals of differences the page holds, and what that means."""
    made = sum(one.estimate is not None and one.estimate.has_interval for each in several for one in each)
    if not made:
        return "No comparison could be made."
    if made == 1:
        return "One comparison was made; one in twenty such 95 % intervals leaves 0 out where there is no difference."
    astray = made / 20
    about = f"about {math.ceil(astray)}" if astray > 1 else "up to one"
    return (
        f"{made} comparisons were made, each with its own 95 % interval: were there no difference anywhere, {about} "
        "of them would be expected to leave 0 out all the same. That the highest of several is highest is luck in "
        "part: it will look a little less good on new prompts."
    )


def glossary(rows: Sequence[Summary]) -> list[tuple[str, str]]:
    """How each number of the table is made, and the intervals."""
    used = [measure for measure in MEASURES if any(row.get(measure) for row in rows)]
    return [
        *((measure.name, measure.meaning) for measure in used),
        (
            "mean",
            "Over a method’s seeds, each the mean over its evaluation prompts or held-out comparisons.",
        ),
        (
            "95 % interval",
            "Percentile bootstrap with 2,000 resamples of prompts, drawn once for all seeds, plus seeds, drawn apart; "
            "the seeds’ part is widened as a t interval is, or a few seeds would look surer than they are. With one "
            "seed by prompts alone. Numbers of a whole run, such as its seconds, have seeds alone.",
        ),
        (
            "difference",
            "On the same seeds and the same prompts, so that what is easy for all cancels; the interval is made the "
            "same way. Above or below is shown where it leaves 0 out; “nothing is shown” does not mean equal.",
        ),
    ]


def with_interval(estimate: Estimate, measure: Measure, decimals: int | None = None) -> str:
    """A number and its interval, where it has one, in a sentence.

    Args:
        estimate: the number.
        measure: what it is of.
        decimals: those of its column; None = by its own size.
    """
    if decimals is None:
        decimals = column_decimals(measure, [estimate])
    text = written(estimate.mean, measure, decimals) + (" %" if measure.share else "")
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{written(estimate.low, measure, decimals)}, {written(estimate.high, measure, decimals)}]"


def signed_interval(estimate: Estimate, measure: Measure, decimals: int) -> str:
    """A difference with its sign, and its interval; shares in points of a per cent."""
    text = with_interval(estimate, measure, decimals).replace(" %", " points")
    return text if text.startswith("−") else f"+{text}"


def _estimates(differences: Sequence[Difference]) -> list[Estimate]:
    return [one.estimate for one in differences if one.estimate is not None]


def _estimate(row: Summary, measure: Measure) -> Estimate:
    found = row.get(measure)
    assert found is not None
    return found
