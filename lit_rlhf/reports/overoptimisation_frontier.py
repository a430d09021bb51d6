"""Score and gold against how far the policy has moved: the fits, and what speaks against them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lit_rlhf.reports.charts import root_kl
from lit_rlhf.reports.foreign_text import one_line
from lit_rlhf.reports.overoptimisation_best_of_n import BestOfN
from lit_rlhf.reports.overoptimisation_course import course_of, judge, kl_near
from lit_rlhf.reports.overoptimisation_figures import Look, against_kl, draw_against_kl, look_of
from lit_rlhf.reports.overoptimisation_fit import GaoFit, doubts, fit_gao
from lit_rlhf.reports.overoptimisation_groups import Group
from lit_rlhf.reports.overoptimisation_runs import GOLD, SCORE, Quantity
from lit_rlhf.reports.overoptimisation_words import number
from lit_rlhf.reports.page import Picture

BEST_OF_N = "best of n"


@dataclass(frozen=True)
class Fit:
    """The fit of a group, or of best-of-n."""

    name: str
    found: GaoFit | None
    start: float
    """Gold at the start, mean over the group's runs."""
    look: Look | None
    doubts: list[str]

    def cells(self) -> list[str]:
        """A row of the table: name, form, points, α, β, R², the peak's KL and gold."""
        if self.found is None:
            return [self.name, "–", "0", *["–"] * 5]
        fit, peak = self.found, self.found.peak
        form = "d(α − β·log d)" if fit.form == "rl" else "d(α − β·d)"
        ends = [number(None)] * 2 if peak is None else [number(peak**2), number(self.start + fit.gain(peak))]
        return [
            self.name,
            form,
            f"{fit.points:,}",
            number(fit.alpha),
            number(fit.beta),
            number(fit.r_squared),
            *ends,
        ]


FIT_HEADER = ["", "R(d) =", "points", "α", "β", "R²", "peak: KL, nats", "peak: gold"]


def fits_of(groups: Sequence[Group], best_of: Sequence[BestOfN]) -> list[Fit]:
    """A fit for each group that has a gold reward, over the points of all its runs, and one for best-of-n.

    R of a run is measured from its own first iteration.
    """
    found = []
    for place, group in enumerate(groups):
        distances: list[float] = []
        gains: list[float] = []
        starts: list[float] = []
        for run in group.runs:
            kls, golds = against_kl(run, GOLD)
            if golds:
                distances += [root_kl(kl) for kl in kls]
                gains += [gold - golds[0] for gold in golds]
                starts.append(golds[0])
        if starts:
            fit = fit_gao("rl", distances, gains)
            start = sum(starts) / len(starts)
            found.append(
                Fit(one_line(group.name, 60), fit, start, look_of(place), doubts(fit, _seen_peak(group)))
            )
    points = [(root_kl(point.kl), point.gold) for point in best_of if point.gold is not None]
    if points:
        start = points[0][1]
        fit = fit_gao("best_of_n", [d for d, _ in points], [gold - start for _, gold in points])
        highest = max(points, key=lambda point: point[1])
        seen = None if highest is points[-1] else highest[0]
        found.append(Fit(BEST_OF_N, fit, start, None, doubts(fit, seen)))
    return found


def _seen_peak(group: Group) -> float | None:
    """d where gold was highest, the mean over the runs in which it fell since; None where it fell in none."""
    peaks = [
        root_kl(kl_near(run, course_of(run.get(GOLD)).peak_at))
        for run in group.runs
        if judge(run) in ("over-optimised", "collapsed")
    ]
    return sum(peaks) / len(peaks) if peaks else None


def say_fits(fits: Sequence[Fit]) -> list[str]:
    """A sentence for each fit: what it says, or why not to lean on it."""
    said = []
    for fit in fits:
        if fit.doubts:
            said.append(f"{fit.name}: the data do not support the fit: {'; '.join(fit.doubts)}.")
        elif fit.found is not None and fit.found.peak is not None:
            peak = fit.found.peak
            said.append(
                f"{fit.name}: by the fit gold is highest at {number(peak**2)} nats of KL, "
                f"{number(fit.found.gain(peak))} above the start (R² {number(fit.found.r_squared)})."
            )
    return said


def draw_frontier_pictures(
    groups: Sequence[Group], best_of: Sequence[BestOfN], fits: Sequence[Fit]
) -> list[Picture]:
    """Gold, where it was logged, and score against √KL."""
    pictures = []
    for quantity in (GOLD, SCORE):
        drawn = [
            (fit.found, fit.start, fit.look) for fit in fits if fit.found is not None and quantity is GOLD
        ]
        rows = _rows(quantity, groups, best_of)
        if rows:
            said = _say(quantity, groups, best_of)
            svg = draw_against_kl(
                f"frontier-{quantity.title.split()[0].lower()}", quantity, groups, best_of, drawn,
                f"{quantity.title} against the root of the KL. {said}",
            )  # fmt: skip
            pictures.append(
                Picture(
                    f"{quantity.title} against KL", said, Markup(svg), ["", "KL, nats", quantity.unit], rows
                )
            )
    return pictures


def _say(quantity: Quantity, groups: Sequence[Group], best_of: Sequence[BestOfN]) -> str:
    """Where each group is highest and where it ends, and the best that best-of-n reaches."""
    parts = []
    for group in groups:
        for validation in (False, True):
            points = [
                point
                for run in group.runs
                for point in zip(*against_kl(run, quantity, validation), strict=True)
            ]
            if points:
                kl, value = max(points, key=lambda point: point[1])
                furthest = max(points)
                where = "on validation prompts " if validation else ""
                went = f"{one_line(group.name, 60)} {where}reaches {number(value)} at {number(kl)} nats"
                ends = f"and goes as far as {number(furthest[0])} nats, where it has {number(furthest[1])}"
                parts.append(f"{went} {ends if kl < furthest[0] else 'and goes no further'}")
                break
    worth = [(p.gold if quantity is GOLD else p.score, p) for p in best_of]
    known = [(value, p) for value, p in worth if value is not None]
    if known:
        value, point = max(known, key=lambda found: found[0])
        parts.append(f"best of {point.n} reaches {number(value)} at no more than {number(point.kl)} nats")
    return "; ".join(parts) + "."


def _rows(quantity: Quantity, groups: Sequence[Group], best_of: Sequence[BestOfN]) -> list[list[str]]:
    rows = []
    for run in (run for group in groups for run in group.runs):
        for validation in (False, True):
            kls, values = against_kl(run, quantity, validation)
            name = one_line(run.name, 60) + (", validation" if validation else "")
            if values:
                places = {0: "first", len(values) - 1: "last"}
                places[max(range(len(values)), key=values.__getitem__)] = "highest"
                rows += [
                    [f"{name}, {places[place]}", number(kls[place]), number(values[place])]
                    for place in sorted(places)
                ]
    for point in best_of:
        value = point.gold if quantity is GOLD else point.score
        if value is not None:
            rows.append([f"best of {point.n}", number(point.kl), number(value)])
    return rows
