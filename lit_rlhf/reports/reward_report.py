"""``reward-report.html``: how far a reward model can be trusted, on one page that needs nothing but itself.

Text from the data is escaped, cut to a length, and shown with its hidden characters written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lit_rlhf.metrics.evaluation import Evaluation
from lit_rlhf.metrics.judged import Judged
from lit_rlhf.records import Row
from lit_rlhf.reports.foreign_text import shown
from lit_rlhf.reports.page import Picture, write_page
from lit_rlhf.reports.resampling import interval_note
from lit_rlhf.reports.reward_numbers import (
    Judge,
    Measure,
    cautions,
    judge_columns,
    judges,
    measures,
    verdict,
)
from lit_rlhf.reports.reward_pictures import draw_headline, draw_pictures
from lit_rlhf.reports.wrong_pairs import WrongPair, describe_wrong_pair

MOST_WRONG_SHOWN = 20
_FACT_CHARACTERS = 2000

_GLOSSARY = [
    (
        "strict comparisons",
        "Comparisons in which more judgements are on one side; ties and even votes are in no accuracy.",
    ),
    (
        "right",
        "The side with more judgements has the higher score. Counted over all comparisons, never as a mean of "
        "means; equal scores are wrong for the model and half right for a baseline.",
    ),
    (
        "95% intervals",
        "Percentile bootstrap with 2,000 resamples of whole prompts, so that comparisons of one prompt are not "
        "taken for independent; of whole rows where there are fewer than 20 prompts, which is marked.",
    ),
    ("longer wins", "The response with more tokens is said to be better, cut as the model saw it."),
    (
        "bag of words",
        "Logistic regression on the words and word pairs of the two responses, fitted on the training data: "
        "what needs no understanding.",
    ),
    (
        "log-loss",
        "Mean of −t log p − (1 − t) log(1 − p), p what the model says, t the target. The noise floor is the same "
        "with p = t; with few voters the shares look surer than people are, so that it is low.",
    ),
    (
        "expected calibration error",
        "Mean distance of what is said from what happens, over ten bins of confidence, weighted by their counts.",
    ),
    ("single votes", "The share of a comparison’s votes that are on the model’s side; a tie is half."),
    (
        "majorities of the others",
        "Each annotator against the majority of the other annotators of the same comparison: about what one more "
        "person would reach, and what the model reaches on the same majorities.",
    ),
]


@dataclass(frozen=True)
class Subject:
    """What was evaluated, in words; the counts of the evaluation are added."""

    title: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    """Name and text, one below the other."""
    cautions: list[str] = field(default_factory=list)
    """What a reader has to know that the numbers do not show."""
    footer: str = ""


@dataclass(frozen=True)
class _Page:
    title: str
    verdict: str
    cautions: list[str]
    facts: list[tuple[str, str]]
    judge_columns: list[str]
    judges: list[Judge]
    measures: list[Measure]
    interval_note: str
    headline: Picture | None
    pictures: list[Picture]
    worst_note: str
    worst: list[WrongPair]
    glossary: list[tuple[str, str]]
    footer: str


def write_reward_report(
    path: Path, evaluation: Evaluation, judged: Judged, rows: Sequence[Row], subject: Subject
) -> None:
    """Write the page, beside `path` and then renamed.

    Args:
        path: of the page; its folder is made if it is missing.
        evaluation: the numbers.
        judged: what they were computed of.
        rows: the data, to which `judged.row` points. Texts are left out of the page where it does not reach.
        subject: model and data in words.
    """
    write_page(path, "reward_report", _describe(evaluation, judged, rows, subject))


def _describe(evaluation: Evaluation, judged: Judged, rows: Sequence[Row], subject: Subject) -> _Page:
    facts = [*subject.facts, *_counts(evaluation, judged)]
    worst = evaluation.worst[:MOST_WRONG_SHOWN]
    return _Page(
        title=shown(subject.title, 200).text,
        verdict=verdict(evaluation),
        cautions=[shown(line, _FACT_CHARACTERS).text for line in (*cautions(evaluation), *subject.cautions)],
        facts=[(name, shown(value, _FACT_CHARACTERS).text) for name, value in facts],
        judge_columns=judge_columns(evaluation),
        judges=judges(evaluation),
        measures=measures(evaluation),
        interval_note=interval_note(evaluation),
        headline=draw_headline(evaluation),
        pictures=draw_pictures(evaluation, judged),
        worst_note=_worst_note(worst, judged, rows),
        worst=[describe_wrong_pair(judged, place, rows) for place in worst],
        glossary=_GLOSSARY,
        footer=subject.footer,
    )


def _counts(evaluation: Evaluation, judged: Judged) -> list[tuple[str, str]]:
    even = evaluation.comparisons - evaluation.strict
    comparisons = f"{evaluation.comparisons:,}, on {evaluation.prompts:,} different prompts"
    comparisons += f": {evaluation.strict:,} strict"
    if even:
        comparisons += f", {even:,} even (ties, or as many votes for either): in log-loss, not in accuracy"
    return [("comparisons", comparisons), ("responses", f"{len(judged.scores):,}")]


def _worst_note(worst: Sequence[int], judged: Judged, rows: Sequence[Row]) -> str:
    if not worst:
        return "There is nothing to show: no comparison says that one response is better."
    note = (
        f"The {len(worst)} comparisons with the highest log-loss, the worst first. Read them before you trust the "
        "numbers: they show wrong labels as well as wrong scores."
    )
    if not any(0 <= int(judged.row[place]) < len(rows) for place in worst):
        note += " Their texts are not at hand: the data module has no rows()."
    return note
