"""The over-optimisation report: what runs of PPO gained, how far they moved for it, and where gold was lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from lit_rlhf.reports.foreign_text import one_line, shown
from lit_rlhf.reports.overoptimisation_best_of_n import BestOfN, Candidates, best_of_n
from lit_rlhf.reports.overoptimisation_course import SURE
from lit_rlhf.reports.overoptimisation_figures import MOST_POINTS, draw_over_iterations, look_of
from lit_rlhf.reports.overoptimisation_frontier import FIT_HEADER, draw_frontier_pictures, fits_of, say_fits
from lit_rlhf.reports.overoptimisation_groups import Group, group_runs
from lit_rlhf.reports.overoptimisation_runs import QUANTITIES, Run
from lit_rlhf.reports.overoptimisation_words import (
    cautions,
    course_rows,
    end_table,
    gold_table,
    say_course,
    say_run,
    verdict,
)
from lit_rlhf.reports.page import Picture, write_page

MOST_ALARMS = 50
_MOST_IN_TITLE = 3
_TEXT = 2000

_GLOSSARY = [
    ("iterations", "A rollout stands at the number of finished iterations behind the policy that drew it, 0 is the "
     "start; a validation at the end of iteration i measures the policy after i + 1."),
    ("score", "Mean of what the reward says of a rollout’s responses, before any KL price: what is trained on."),
    ("gold", "Mean of the gold reward on the same responses, which trains nothing."),
    ("peak, lost since", "Of means over some iterations in a row, about a tenth of all: the highest, and how far the "
     "last is below it. Behind ± is the standard error of such a difference, from the differences of neighbouring "
     f"iterations; a run is over-optimised if it lost more than {SURE:g} of them and the score did not."),
    ("KL", "From the policy to its reference, nats a response, summed over its tokens and estimated from the samples."),
    ("best of n", "The mean gold and score of the highest-scored of n samples, over all subsets of n of each prompt’s "
     "scored samples (Nakano et al. 2021). Its KL is log n − (n − 1)/n nats, an upper bound."),
    ("the fit", "R = gold minus gold at the start, d = √KL; R(d) = d(α − β·log d) for reinforcement learning, "
     "R(d) = d(α − β·d) for best of n (Gao et al. 2022). Least squares on R; R² is the share of its variance that the "
     "curve explains. Repeats with other seeds are fitted together, each from its own start."),
]  # fmt: skip


@dataclass(frozen=True)
class Key:
    """A line of the legend."""

    name: str
    colour: str
    dashes: str


@dataclass(frozen=True)
class _Page:
    title: str
    verdict: str
    each: list[tuple[str, str]]
    cautions: list[str]
    tables: list[tuple[list[str], list[list[str]]]]
    """Header and rows of each."""
    runs_note: str
    alarms: list[tuple[str, str]]
    key: list[Key]
    frontier_note: str
    frontier: list[Picture]
    fits_header: list[str]
    fits: list[list[str]]
    fits_said: list[str]
    course_note: str
    courses: list[Picture]
    glossary: list[tuple[str, str]]
    footer: str


@dataclass(frozen=True)
class Summary:
    """What the page says first, for a terminal."""

    verdict: str
    each: list[tuple[str, str]]
    cautions: list[str]
    fits: list[str]


def write_overoptimisation_report(
    path: Path, runs: Sequence[Run], candidates: Candidates | None = None, footer: str = ""
) -> Summary:
    """Write the page, beside `path` and then renamed.

    Args:
        path: of the page; its folder is made if it is missing.
        runs: as :func:`~lit_rlhf.reports.overoptimisation_runs.read_runs` gives them, at least one.
        candidates: scored responses of the policy that the runs start from, for best-of-n.
        footer: the page's last line.
    """
    page = _describe(list(runs), candidates, footer)
    write_page(path, "overoptimisation", page)
    return Summary(page.verdict, page.each, page.cautions, page.fits_said)


def _describe(runs: list[Run], candidates: Candidates | None, footer: str) -> _Page:
    groups = group_runs(runs)
    best_of = best_of_n(candidates) if candidates is not None else []
    fits = fits_of(groups, best_of)
    return _Page(
        title=_title(groups),
        verdict=verdict(runs),
        each=[(run.name, say_run(run)) for run in runs] if len(runs) > 1 else [],
        cautions=[shown(line, _TEXT).text for line in (*cautions(runs), *_cautions_of(candidates))],
        tables=[gold_table(runs), end_table(runs)],
        runs_note=_runs_note(runs),
        alarms=_alarms(runs),
        key=[_key(place, group) for place, group in enumerate(groups)],
        frontier_note=_frontier_note(best_of, candidates),
        frontier=draw_frontier_pictures(groups, best_of, fits),
        fits_header=FIT_HEADER,
        fits=[fit.cells() for fit in fits],
        fits_said=say_fits(fits),
        course_note="Thin: each run as logged. Thick: the mean over about a tenth of the iterations, and over repeats. "
        f"Squares: on the validation prompts. Lines of more than {MOST_POINTS} values are means over neighbours. "
        + _not_logged(groups),
        courses=_courses(groups, runs),
        glossary=_GLOSSARY,
        footer=footer,
    )


def _title(groups: Sequence[Group]) -> str:
    named = ", ".join(one_line(group.name, 60) for group in groups[:_MOST_IN_TITLE])
    return named + (f" and {len(groups) - _MOST_IN_TITLE} more" if len(groups) > _MOST_IN_TITLE else "")


def _courses(groups: Sequence[Group], runs: Sequence[Run]) -> list[Picture]:
    pictures = []
    for quantity in QUANTITIES:
        header, rows = course_rows(quantity, runs)
        if rows:
            said = say_course(quantity, groups)
            name = quantity.name.replace("/", "-").replace("_", "-")
            description = f"{quantity.title}, {quantity.unit}, over iterations. {said}"
            figure = draw_over_iterations(name, quantity, groups, description)
            pictures.append(Picture(quantity.title, said, Markup(figure), header, rows))
    return pictures


def _not_logged(groups: Sequence[Group]) -> str:
    missing = [
        quantity.title.lower()
        for quantity in QUANTITIES
        if not any(
            len(run.get(quantity)) or len(run.get(quantity, True)) for group in groups for run in group.runs
        )
    ]
    return f"Not logged by any run: {', '.join(missing)}." if missing else ""


def _key(place: int, group: Group) -> Key:
    look = look_of(place)
    return Key(one_line(group.name, 80), look.colour, " ".join(str(3 * length) for length in look.dashes))


def _runs_note(runs: Sequence[Run]) -> str:
    note = "Behind “at” is the iteration. "
    if len(runs) == 1:
        note += "What differs is seen with several runs. "
    return (
        note + "Peak, KL there and lost since are of means over several iterations; how, stands at the end."
    )


def _frontier_note(best_of: Sequence[BestOfN], candidates: Candidates | None) -> str:
    note = "Dots: rollouts. Squares: validation prompts. Thick: a running mean, to the large dot. Dotted: the fit. "
    if candidates is None:
        return note + "Best-of-n is drawn where a file of scored responses is given (--best-of)."
    note += f"Diamonds: best of {', '.join(str(point.n) for point in best_of)}, on {len(candidates.scores):,} prompts"
    return note + (
        "."
        if candidates.gold is not None
        else "; the rows have no gold_scores, so only their score is known."
    )


def _cautions_of(candidates: Candidates | None) -> list[str]:
    if candidates is None:
        return []
    said = ["Best-of-n can be compared if its responses are samples of the policy that the runs start from."]
    if candidates.unscored:
        said.append(f"Best-of-n: responses without a score, left out: {candidates.unscored:,}.")
    counts = {len(scores) for scores in candidates.scores}
    if len(counts) > 1:
        said.append(
            f"Best-of-n: prompts have {min(counts)} to {max(counts)} scored responses; n ends at {min(counts)}."
        )
    return said


def _alarms(runs: Sequence[Run]) -> list[tuple[str, str]]:
    found = [
        (f"{one_line(run.name, 60)}, iteration {iteration:,}", shown(text, _TEXT).text)
        for run in runs
        for iteration, text in run.alarms
    ]
    if len(found) > MOST_ALARMS:
        return [
            *found[:MOST_ALARMS],
            ("", f"and {len(found) - MOST_ALARMS:,} more, in TensorBoard’s text tab"),
        ]
    return found
