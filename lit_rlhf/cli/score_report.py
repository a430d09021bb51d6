"""How well the scores of a file agree with what people said in it: what ``lit-rlhf validate`` gives, for any file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from lit_rlhf import __version__
from lit_rlhf.cli.reward_report import add_numbers, evaluate_rows
from lit_rlhf.cli.score_lines import RowScores
from lit_rlhf.metrics.judged import Judged
from lit_rlhf.records import Row, Tree
from lit_rlhf.reports.reward_numbers import headline_table
from lit_rlhf.reports.reward_report import Subject, write_reward_report

COMPARISON_FIELDS = {
    "row": torch.long, "better": torch.long, "worse": torch.long, "better_scores": torch.float,
    "worse_scores": torch.float, "probability": torch.float, "target": torch.float, "tie": torch.float,
    "better_lengths": torch.long, "worse_lengths": torch.long,
}  # fmt: skip
RESPONSE_FIELDS = {
    "response_row": torch.long, "response": torch.long, "scores": torch.float, "ranks": torch.float,
    "lengths": torch.long, "disagreement": torch.float,
}  # fmt: skip
"""The fields of a :class:`~lit_rlhf.metrics.judged.Judged` and their dtypes."""


def judged_by_scores(trees: Sequence[Tree], found: Sequence[RowScores]) -> Judged:
    """What was said of the rows and what the model says of them; responses without a score are left out."""
    comparisons: list[tuple[Any, ...]] = []
    responses: list[tuple[Any, ...]] = []
    for number, (tree, one) in enumerate(zip(trees, found, strict=True)):
        lengths = [len(ids) for ids in tree.response_ids]
        ranks = tree.ranks or [None] * len(lengths)
        for place, score in enumerate(one.scores):
            if score is not None:
                rank = torch.nan if ranks[place] is None else ranks[place]
                responses.append((number, place, score, rank, lengths[place], one.disagreement[place]))
        for said, probability in zip(tree.comparisons, one.probability, strict=True):
            if probability is not None:
                sides = (said.better, said.worse)
                scores, tokens = [one.scores[side] for side in sides], [lengths[side] for side in sides]
                comparisons.append((number, *sides, *scores, probability, said.target, said.tie, *tokens))
    named = {
        **columns(COMPARISON_FIELDS, comparisons),
        **columns(RESPONSE_FIELDS, responses),
    }
    return Judged(**named)


def columns(names: Mapping[str, torch.dtype], records: Sequence[tuple[Any, ...]]) -> dict[str, torch.Tensor]:
    """The fields of some records by their name, each a tensor as long as there are records."""
    fields = zip(*records, strict=True) if records else [()] * len(names)
    return {
        name: torch.tensor(values, dtype=dtype)
        for (name, dtype), values in zip(names.items(), fields, strict=True)
    }


def report_on_rows(
    rows: Sequence[Row],
    trees: Sequence[Tree],
    found: Sequence[RowScores],
    training: Sequence[Row] | None,
    model: str,
    files: Sequence[str],
    folder: Path,
) -> None:
    """Print the headline numbers, write ``reward-report.html`` and ``metrics.json``; nothing where nothing is judged.

    Args:
        rows: of the files, put together as ``validate`` would; see :func:`~lit_rlhf.cli.score_merged.merge_rows`.
        trees: the same in tokens.
        found: their scores.
        training: rows for the bag-of-words baseline, put together likewise; None = none were given.
        model: its name, for the page.
        files: names of the files, for the page.
        folder: where the two go.
    """
    judged = judged_by_scores(trees, found)
    if not len(judged.row):
        return
    evaluation, cautions = evaluate_rows(
        judged, rows, training if training is not None else "no --train was given"
    )
    left_out = sum(len(tree.comparisons) for tree in trees) - len(judged.row)
    if left_out:
        cautions.append(f"{left_out:,} comparisons are left out, because a response of theirs has no score.")
    facts = [("model", model), ("data", ", ".join(files))]
    when = time.strftime("%Y-%m-%d %H:%M")
    subject = Subject(model, facts, cautions, f"Written by lit-rlhf {__version__} on {when}.")
    page = folder / "reward-report.html"
    write_reward_report(page, evaluation, judged, rows, subject)
    add_numbers(folder / "metrics.json", evaluation)
    console = Console()
    console.print(headline_table(evaluation))
    for caution in cautions:
        console.print(f"note: {caution}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"report: {page}", highlight=False, markup=False, soft_wrap=True)
