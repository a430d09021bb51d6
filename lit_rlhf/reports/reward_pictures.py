"""The pictures of the page: each with its title, what to look for in it, and its numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from markupsafe import Markup

from lit_rlhf.metrics.evaluation import Evaluation
from lit_rlhf.metrics.groups import Group
from lit_rlhf.metrics.intervals import Interval
from lit_rlhf.metrics.judged import Judged
from lit_rlhf.reports.foreign_text import one_line
from lit_rlhf.reports.page import Picture
from lit_rlhf.reports.resampling import is_by_row
from lit_rlhf.reports.reward_figures import (
    MOST_POINTS,
    Share,
    draw_differences,
    draw_lengths,
    draw_reliability,
    draw_shares,
)
from lit_rlhf.reports.reward_numbers import MODEL, share_cell

MOST_GROUPS = 25
BY_ROW = "*"
"""Behind the name of a share whose interval is by row."""


def draw_headline(evaluation: Evaluation) -> Picture | None:
    """The model between what it has to beat and where people put the limit."""
    if evaluation.accuracy is None:
        return None
    shares = [_share(MODEL, evaluation.accuracy)]
    shares += [_share(name, share) for name, share in evaluation.baselines.items()]
    return Picture(
        "Against simple rules",
        "Look whether the model’s interval is clear of the others and of the dashed coin." + _legend(shares),
        Markup(draw_shares("headline", shares, emphasised=0)),
    )


def draw_pictures(evaluation: Evaluation, judged: Judged) -> list[Picture]:
    """Those that the data allow, in the order of the page."""
    pictures = []
    if evaluation.reliability:
        pictures.append(_reliability(evaluation))
    if len(evaluation.by_domain) > 1:  # of one there is nothing to see that the accuracy does not say
        pictures += _groups(
        "By domain", "domains", evaluation.by_domain, evaluation,
        "Look for domains at the dashed coin: there its scores say nothing.",
    )  # fmt: skip
    pictures += _groups(
        "By agreement of the annotators", "agreement", evaluation.by_agreement, evaluation,
        "It should rise with the share of votes that the majority has; errors where people agree are the model’s own.",
    )  # fmt: skip
    pictures += _groups(
        "By difference of length", "length-difference", evaluation.by_length_difference, evaluation,
        "Tokens that the preferred response has more: a model that goes by length falls below the coin on top, "
        "where the shorter response is preferred.",
    )  # fmt: skip
    pictures += _differences(judged)
    pictures += _lengths(judged)
    return pictures


def _reliability(evaluation: Evaluation) -> Picture:
    bins = evaluation.reliability
    return Picture(
        "Does it know how sure to be?",
        "On the dashed line, what it says is what happens; points below it are overconfidence. Bars: 95% "
        "intervals, as if comparisons were independent.",
        Markup(draw_reliability([(each.confidence, each.right, each.comparisons) for each in bins])),
        ["confidence", "right", "comparisons"],
        [[f"{each.confidence:.1%}", f"{each.right:.1%}", f"{each.comparisons:,}"] for each in bins],
    )


def _groups(
    title: str, name: str, groups: Sequence[Group], evaluation: Evaluation, look_for: str
) -> list[Picture]:
    if not groups or evaluation.accuracy is None:
        return []
    drawn = list(groups[:MOST_GROUPS])
    if len(groups) > len(drawn):
        look_for += f" Drawn: the first {len(drawn)} of {len(groups)}."
    shares = [_share(group.name, group.accuracy, group.count) for group in drawn]
    rows = []
    for group in groups:
        cell = share_cell(group.accuracy)
        assert cell is not None
        rows.append([one_line(group.name, 60), cell.value, cell.interval, f"{group.count:,}"])
    return [
        Picture(
            title,
            look_for + " Thin line: all of them. On the right: their number." + _legend(shares),
            Markup(draw_shares(name, shares, overall=evaluation.accuracy.mean)),
            ["", "right", "95% interval", "comparisons"],
            rows,
        )
    ]


def _differences(judged: Judged) -> list[Picture]:
    strict = judged.target != 0.5
    sign = torch.where(judged.target[strict] > 0.5, 1.0, -1.0)
    differences = sign * (judged.better_scores[strict] - judged.worse_scores[strict])
    finite = differences[differences.isfinite()]
    if not len(finite):
        return []
    undecided = int((finite == 0).sum())
    note = f" {undecided:,} with equal scores, counted as wrong." if undecided else ""
    if len(finite) < len(differences):
        note += f" {len(differences) - len(finite):,} are not finite and not drawn."
    return [
        Picture(
            "Score differences, right and wrong",
            "Errors near 0 are honest doubt; a long tail to the left is confident error. The outermost bars hold "
            f"all that lies beyond them.{note}",
            Markup(draw_differences(finite)),
        )
    ]


def _lengths(judged: Judged) -> list[Picture]:
    finite = judged.scores.isfinite()
    lengths, scores = judged.lengths[finite], judged.scores[finite]
    if not len(scores):
        return []
    drawn = (
        f"{MOST_POINTS:,} of the {len(scores):,} responses are drawn"
        if len(scores) > MOST_POINTS
        else f"All {len(scores):,} responses are drawn"
    )
    left_out = int((~finite).sum())
    note = f" {left_out:,} scores are not finite and left out." if left_out else ""
    return [
        Picture(
            "Score against length",
            "The line is the mean score, from the shortest to the longest responses: flat means that length alone "
            f"earns nothing. {drawn}; the line is of all.{note}",
            Markup(draw_lengths(lengths, scores)),
        )
    ]


def _share(name: str, share: Interval, count: int | None = None) -> Share:
    return Share(name, share.mean, share.low, share.high, count, BY_ROW if is_by_row(share) else "")


def _legend(shares: Sequence[Share]) -> str:
    return (
        f" {BY_ROW}: its interval is by row, since prompts are few."
        if any(share.mark for share in shares)
        else ""
    )
