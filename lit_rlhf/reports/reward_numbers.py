"""The numbers of a reward model's evaluation in words: tables, a sentence in front, and what to be careful with."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.table import Table

from lit_rlhf.metrics.evaluation import Evaluation
from lit_rlhf.metrics.intervals import Interval
from lit_rlhf.reports.resampling import cautions_of_rows, interval_note, mark_of
from lit_rlhf.reports.tables import Cell as TerminalCell
from lit_rlhf.reports.tables import result_table

MODEL = "this model"
PERSON, CEILING = "one person", "the most any model can reach"
_FEW = 100
_LONG_CORRELATION = 0.3
_COIN = math.log(2)


@dataclass(frozen=True)
class Cell:
    """A number as it is shown."""

    value: str
    interval: str = ""


@dataclass(frozen=True)
class Judge:
    """Whoever says which response is better, and how often that is right, by column."""

    name: str
    cells: list[Cell | None]
    ours: bool = False


@dataclass(frozen=True)
class Measure:
    """One number and how to read it."""

    name: str
    cell: Cell | None
    meaning: str


def share_cell(share: Interval | float | None) -> Cell | None:
    """As per cent."""
    if share is None:
        return None
    if isinstance(share, Interval):
        return Cell(f"{share.mean:.1%}", f"[{100 * share.low:.1f}, {100 * share.high:.1f}]" + mark_of(share))
    return Cell(f"{share:.1%}")


def number_cell(number: Interval | float | None) -> Cell | None:
    """With three decimals."""
    if number is None:
        return None
    if isinstance(number, Interval):
        return Cell(_plain(number.mean), f"[{_plain(number.low)}, {_plain(number.high)}]" + mark_of(number))
    return Cell(_plain(number))


def judge_columns(evaluation: Evaluation) -> list[str]:
    """What shares are counted over."""
    columns = [f"of {evaluation.strict:,} strict comparisons"]
    if evaluation.vote_accuracy is not None:
        columns.append("of single votes")
    if evaluation.human_accuracy is not None:
        columns.append("of majorities of the others")
    return columns


def judges(evaluation: Evaluation) -> list[Judge]:
    """The model, what it has to beat, and where people put the limit; a cell for each of :func:`judge_columns`."""
    votes, people = evaluation.vote_accuracy is not None, evaluation.human_accuracy is not None

    def judge(
        name: str,
        strict: Interval | None = None,
        vote: Interval | float | None = None,
        others: Interval | None = None,
        ours: bool = False,
    ) -> Judge:
        cells = [strict, *([vote] * votes), *([others] * people)]
        return Judge(name, [share_cell(cell) for cell in cells], ours)

    found = [
        judge(
            MODEL, evaluation.accuracy, evaluation.vote_accuracy, evaluation.accuracy_beside_humans, ours=True
        )
    ]
    found += [judge(name, share) for name, share in evaluation.baselines.items()]
    if people:
        found.append(judge(PERSON, others=evaluation.human_accuracy))
    if votes:
        found.append(judge(CEILING, vote=evaluation.vote_ceiling))
    return found


def measures(evaluation: Evaluation) -> list[Measure]:
    """What accuracy does not tell; a number that the data do not allow is said to be missing, and why."""
    floor = evaluation.noise_floor
    beside = (
        f"a model that said the shares of votes themselves would have {floor:.3f}, the noise floor"
        if floor is not None
        else "no noise floor, since every judgement is all or nothing"
    )
    unranked = "needs rows with more than two judged responses; there are none"
    tied = f"; {evaluation.tied_prompts:,} fully tied prompts left out" if evaluation.tied_prompts else ""
    found = [
        Measure(
            "log-loss, nats",
            number_cell(evaluation.log_loss),
            f"lower is better: {_COIN:.3f} is a coin; {beside}",
        ),
        Measure(
            "noise floor, nats", number_cell(floor), "the log-loss that the disagreement of people leaves"
        ),
        Measure(
            "expected calibration error",
            number_cell(evaluation.ece),
            "how far “90% sure” is from being right 9 times of 10; 0 is best",
        ),
        Measure(
            "Kendall’s τ",
            number_cell(evaluation.kendall_tau),
            f"agreement of whole rankings: 1 the same, 0 chance, −1 the reverse{tied}"
            if evaluation.kendall_tau
            else unranked,
        ),
        Measure(
            "best response found",
            share_cell(evaluation.top1),
            f"share of ranked prompts whose highest score is on a best response{tied}"
            if evaluation.top1
            else unranked,
        ),
        Measure(
            "score with length, within prompts",
            number_cell(evaluation.length_correlation),
            "correlation; far from 0 means that length alone moves the score, or that people like long answers",
        ),
        Measure(
            "score with length, overall",
            number_cell(evaluation.length_correlation_overall),
            "the same over all responses, whatever their prompt",
        ),
    ]
    if evaluation.disagreement is not None:
        found.append(
            Measure(
                "disagreement of the components",
                number_cell(evaluation.disagreement),
                "mean standard deviation of a response’s score over the heads",
            )
        )
    return found


def verdict(evaluation: Evaluation) -> str:
    """The result in one sentence."""
    accuracy = evaluation.accuracy
    if accuracy is None:
        return (
            f"None of the {evaluation.comparisons:,} comparisons says that one response is better, "
            "so that there is no accuracy."
        )
    others = [f"{name} {share.mean:.1%}" for name, share in evaluation.baselines.items()]
    beside = f"; beside it: {', '.join([*others, 'a coin 50%'])}"
    return (
        f"Right on {accuracy.mean:.1%} of {evaluation.strict:,} strict comparisons (95% interval "
        f"{accuracy.low:.1%} to {accuracy.high:.1%}){beside}."
    )


def cautions(evaluation: Evaluation) -> list[str]:
    """What a careful reader would ask about, where the numbers give reason to."""
    found = []
    if 0 < evaluation.strict < _FEW:
        found.append(f"There are only {evaluation.strict} strict comparisons: read the intervals first.")
    found += cautions_of_rows(evaluation)
    for name, difference in evaluation.minus_baselines.items():
        if difference.low <= 0:
            shown = "It is worse than" if difference.high < 0 else "It is not shown to beat"
            found.append(
                f"{shown} “{name}”: the difference in accuracy is {_signed(100 * difference.mean)} "
                f"points, 95% interval {_signed(100 * difference.low)} to {_signed(100 * difference.high)}."
            )
    if evaluation.log_loss is not None and evaluation.log_loss.mean > _COIN:
        found.append(
            f"Its probabilities are worse than a coin’s (log-loss {evaluation.log_loss.mean:.3f} > {_COIN:.3f}): "
            "use the order of its scores, not their differences."
        )
    correlation = evaluation.length_correlation
    if correlation is not None and abs(correlation) >= _LONG_CORRELATION:
        longer = "longer" if correlation > 0 else "shorter"
        found.append(
            f"Within prompts its scores go with length (correlation {_signed(correlation, 2)}): a policy trained on "
            f"it may learn to write {longer} responses."
        )
    return found


def headline_table(evaluation: Evaluation) -> Table:
    """The same numbers for a terminal."""
    rows: list[list[TerminalCell]] = []
    for place, column in enumerate(judge_columns(evaluation)):
        for judge in judges(evaluation):
            cell = judge.cells[place]
            if cell is not None:
                rows.append([f"{column}: {judge.name}", cell.value, cell.interval])
    for measure in measures(evaluation):
        if measure.cell is not None:
            rows.append([measure.name, measure.cell.value, measure.cell.interval])
    table = result_table("Reward report", ["measure", "value", "95% interval"], rows)
    table.caption, table.caption_justify = interval_note(evaluation), "left"
    return table


def _signed(number: float, decimals: int = 1) -> str:
    return f"{number:+.{decimals}f}".replace("-", "−")


def _plain(number: float) -> str:
    return f"{number:.3f}".replace("-", "−")
