"""Files of responses through a reward model: read, scored, written with their scores, evaluated."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lit_rlhf.cli.devices import choose_device
from lit_rlhf.cli.score import DEFAULT_BETA
from lit_rlhf.cli.score_lines import RowScores, part_of, write_lines
from lit_rlhf.cli.score_merged import merge_rows, scores_of_each
from lit_rlhf.cli.score_reading import Rows, named, read_files, say
from lit_rlhf.cli.score_report import report_on_rows
from lit_rlhf.cli.score_sides import response_order
from lit_rlhf.cli.scoring import (
    Scorer,
    positions_of,
    ranks_of,
    score_rows,
    scoring_key,
    too_long,
)
from lit_rlhf.data.tokenization import TextEncoder, load_tokenizer
from lit_rlhf.data.trees import plant_tree
from lit_rlhf.models.fingerprint import fingerprint_of_stored
from lit_rlhf.models.implicit_scorer import load_implicit_scorer
from lit_rlhf.models.loading import is_scorer_folder, resolve_model_name, resolve_scorer
from lit_rlhf.models.scorer import load_scorer
from lit_rlhf.records import Row, Tree


def score_files(arguments: argparse.Namespace) -> None:
    """``lit-rlhf score`` with its arguments parsed.

    Raises:
        ValueError: the model is no reward model, nor a policy with a reference, or a row cannot be read.
    """
    model, load, depends_on = what_scores(arguments)
    read = read_files(arguments.files)
    rows = judged_together(read)
    training = judged_together(read_files([arguments.train])) if arguments.train else None
    encoder = TextEncoder(load_tokenizer(model))
    trees = [plant_tree(row, encoder)[0][0] for row in rows]
    network = load()
    say_too_long(trees, [row.place for row in rows], network)
    out = Path(arguments.out)
    part = part_of(out, scoring_key(model, trees, *depends_on), "model or other rows")
    found = score_rows(network, trees, part, arguments.max_tokens, choose_device(arguments.device))
    folder = Path(arguments.report) if arguments.report else out.with_name(f"{out.stem}-report")
    try:
        # The file comes last: while it is not there, the same command goes on from the part.
        report_on_rows(rows, trees, found, training, name_of(arguments), arguments.files, folder)
        each = scores_of_each(read.rows, rows, found)
        write_lines(out, with_scores(read.fields, each))
    except BaseException:
        print(f"what was scored is kept in {part}; the same command goes on from there", file=sys.stderr)
        raise
    part.unlink(missing_ok=True)  # where the same command ran twice
    for line in summary(out, read.fields, each):
        say(line)


def what_scores(arguments: argparse.Namespace) -> tuple[str, Callable[[], Scorer], list[str]]:
    """The model's folder, what loads the scorer, and what the scores depend on beside the folder.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no model of the kind that is asked for.
    """
    if arguments.reference is None:
        try:
            model = resolve_scorer(arguments.model)
        except ValueError as error:
            raise ValueError(
                f"{error} Of a policy the implicit reward is scored: give --reference, the model it was trained from."
            ) from None
        return model, partial(load_scorer, model), []
    beta = DEFAULT_BETA if arguments.beta is None else arguments.beta
    model, reference = resolve_policies(arguments.model, arguments.reference)
    load = partial(load_implicit_scorer, model, reference, beta)
    return model, load, [fingerprint_of_stored(reference), f"beta {beta!r}"]


def resolve_policies(policy: str, reference: str) -> tuple[str, str]:
    """The two folders' paths, checked, or the hub names as they are.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: one holds a reward model, which has no log-probabilities.
    """
    models = resolve_model_name(policy), resolve_model_name(reference)
    for option, given, model in zip(("MODEL", "--reference"), (policy, reference), models, strict=True):
        if is_scorer_folder(model):
            raise ValueError(
                f"{option} {given} is a reward model. With --reference a policy is scored by its implicit reward: give "
                "two policies, such as runs/dpo/export and runs/sft/export; or the reward model without --reference."
            )
    return models


def name_of(arguments: argparse.Namespace) -> str:
    """What scored, for the report."""
    if arguments.reference is None:
        return str(arguments.model)
    beta = DEFAULT_BETA if arguments.beta is None else arguments.beta
    return f"{arguments.model}, its implicit reward against {arguments.reference} (beta {beta:g})"


def judged_together(read: Rows) -> list[Row]:
    """The rows as ``validate`` takes them, and what was put together said; see :func:`merge_rows`."""
    rows, notes = merge_rows(read.rows, read.kinds)
    for note in notes:
        say(note)
    return rows


def say_too_long(trees: Sequence[Tree], places: Sequence[str], network: Scorer) -> None:
    """Name the rows that run past the model's positions, and say what becomes of them."""
    positions, fails = positions_of(network)
    over = [number for number, tree in enumerate(trees) if too_long(tree, positions)]
    if over:
        shown = named([places[number] for number in over])
        outcome = (
            "those responses have no score"
            if fails
            else "its positions are rotary, so they are scored, past the lengths that it was trained on"
        )
        say(f"{len(over)} rows run past the model's {positions} positions ({shown}): {outcome}")


def with_scores(fields: Sequence[Mapping[str, Any]], found: Sequence[RowScores]) -> Iterator[dict[str, Any]]:
    """The rows as they were with their scores, in the order of the file's own response fields."""
    several = any(value for one in found for value in one.disagreement)
    for row, one in zip(fields, found, strict=True):
        order = response_order(row, len(one.scores))
        scores = [one.scores[place] for place in order]
        added: dict[str, Any] = {"reward_scores": scores, "reward_ranks": ranks_of(scores)}
        if several:
            added["reward_disagreement"] = [one.disagreement[place] for place in order]
        yield {**row, **added}


def summary(out: Path, fields: Sequence[Mapping[str, Any]], found: Sequence[RowScores]) -> list[str]:
    """What was written, and what has no score."""
    scores = [value for one in found for value in one.scores]
    unscored = sum(value is None for value in scores)
    lines = [f"{out}: {len(found)} rows, {len(scores)} responses, {unscored} of them unscored"]
    bare = sum(not one.scores for one in found)
    if bare:
        lines.append(f"  {bare} rows have no response")
    replaced = sum("reward_scores" in row for row in fields)
    if replaced:
        lines.append(f"  {replaced} rows had reward_scores already, which are replaced")
    return lines
