"""Files of responses through a reward model: read, scored, written with their scores, evaluated."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lit_rlhf.cli.score_lines import RowScores, write_lines
from lit_rlhf.cli.score_merged import merge_rows, scores_of_each
from lit_rlhf.cli.score_report import report_on_rows
from lit_rlhf.cli.score_sides import response_order
from lit_rlhf.cli.scoring import positions_of, ranks_of, score_rows, scoring_key, too_long
from lit_rlhf.data.files import BadRowsError, describe_bad
from lit_rlhf.data.formats import Kind, RowError, parse_row
from lit_rlhf.data.layouts import native_fields
from lit_rlhf.data.sources import find_sources
from lit_rlhf.data.tokenization import TextEncoder, load_tokenizer
from lit_rlhf.data.trees import plant_tree
from lit_rlhf.models.loading import is_scorer_folder, resolve_model_name
from lit_rlhf.models.scorer import ScorerNetwork, load_scorer
from lit_rlhf.records import Row, Tree

NAMED = 5
"""Rows that a message names; the others are counted."""
SKIP_ADVICE = ", or --data.bad_rows skip"
"""Of the data room's messages, which a command without the option must not give."""


@dataclass
class Rows:
    """The rows of some files, each as it was and as it is read."""

    fields: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)


def score_files(arguments: argparse.Namespace) -> None:
    """``lit-rlhf score`` with its arguments parsed.

    Raises:
        ValueError: the model is no reward model, or a row cannot be read.
    """
    model = resolve_model_name(arguments.model)
    if not is_scorer_folder(model):
        raise ValueError(
            f"{arguments.model} is no reward model: its config.json names no SequenceClassification architecture. "
            "Give the export of a reward run, such as runs/reward/export."
        )
    read = read_files(arguments.files)
    rows = judged_together(read)
    training = judged_together(read_files([arguments.train])) if arguments.train else None
    encoder = TextEncoder(load_tokenizer(model))
    trees = [plant_tree(row, encoder)[0][0] for row in rows]
    network = load_scorer(model)
    say_too_long(trees, [row.place for row in rows], network)
    out = Path(arguments.out)
    part = out.with_name(f"{out.name}.{scoring_key(model, trees)[:16]}.part")
    others = [str(file) for file in sorted(out.parent.glob(f"{out.name}.*.part")) if file != part]
    if others:
        say(f"unfinished, of another model or other rows, yours to delete: {', '.join(others)}")
    found = score_rows(network, trees, part, arguments.max_tokens, choose_device(arguments.device))
    folder = Path(arguments.report) if arguments.report else out.with_name(f"{out.stem}-report")
    try:
        # The file comes last: while it is not there, the same command goes on from the part.
        report_on_rows(rows, trees, found, training, arguments.model, arguments.files, folder)
        each = scores_of_each(read.rows, rows, found)
        write_lines(out, with_scores(read.fields, each))
    except Exception:
        print(f"what was scored is kept in {part}; the same command goes on from there", file=sys.stderr)
        raise
    part.unlink()
    for line in summary(out, read.fields, each):
        say(line)


def judged_together(read: Rows) -> list[Row]:
    """The rows as ``validate`` takes them, and what was put together said; see :func:`merge_rows`."""
    rows, notes = merge_rows(read.rows, read.kinds)
    for note in notes:
        say(note)
    return rows


def read_files(paths: Sequence[str]) -> Rows:
    """All rows of some files, in order.

    Raises:
        FileNotFoundError: a path that is not there.
        BadRowsError: rows that cannot be read; the first ones are named.
    """
    out, bad = Rows(), []
    for source in find_sources(list(paths), "predict"):
        for note in source.notes:
            say(note)
        for place, fields in source.read():
            try:
                if isinstance(fields, RowError):
                    raise fields
                kind = kind_of(fields)
                row = parse_row(fields, kind, place)
                refuse_half_characters(row)
                out.rows.append(row)
                out.kinds.append(kind)
                out.fields.append(dict(fields))
            except RowError as error:
                bad.append(error)
    if bad:
        *lines, _ = describe_bad(bad, len(out.rows)).replace(SKIP_ADVICE, "").splitlines()
        raise BadRowsError("\n".join([*lines, "Mend or remove them: no row is skipped here."]))
    if not out.rows:
        raise BadRowsError(f"no rows in {', '.join(paths)}")
    return out


def kind_of(fields: Any) -> Kind:
    """What kind of row the names of its fields say it is."""
    try:
        names = native_fields(fields).keys() if isinstance(fields, Mapping) else set()
    except (TypeError, ValueError):  # of a foreign layout, broken; reading it says where
        return "candidates"
    if "responses" in names:
        return "candidates"
    if names & {"chosen", "rejected", "response_a", "response_b"}:
        return "pairs"
    return "demonstrations" if names & {"response", "messages", "text"} else "candidates"


def choose_device(asked: str) -> torch.device:
    """The device of that name; ``auto`` is the GPU where there is one.

    Raises:
        ValueError: it is not there.
    """
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {asked}: {str(error).splitlines()[0]}") from None
    return device


def say_too_long(trees: Sequence[Tree], places: Sequence[str], network: ScorerNetwork) -> None:
    """Name the rows that run past the model's positions, and say what becomes of them."""
    positions, fails = positions_of(network)
    over = [number for number, tree in enumerate(trees) if too_long(tree, positions)]
    if over:
        shown = ", ".join(places[number] for number in over[:NAMED])
        more = f" and {len(over) - NAMED} more" if len(over) > NAMED else ""
        outcome = (
            "those responses have no score"
            if fails
            else "its positions are rotary, so they are scored, past the lengths that it was trained on"
        )
        say(f"{len(over)} rows run past the model's {positions} positions ({shown}{more}): {outcome}")


def refuse_half_characters(row: Row) -> None:
    r"""Refuse a row whose text holds half of a surrogate pair: no tokenizer reads it.

    Raises:
        RowError: with the place.
    """
    for text in texts_of(row):
        for place, letter in enumerate(text):
            if "\ud800" <= letter <= "\udfff":
                raise RowError(
                    row.place, "characters", f"half of one, {letter!r}, behind {text[:place][-20:]!r}"
                )


def texts_of(row: Row) -> Iterator[str]:
    """What the model reads of a row."""
    for part in (row.prompt, *row.responses):
        yield from [part] if isinstance(part, str) else [turn["content"] for turn in part]


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


def say(text: str) -> None:
    """A line on stdout, at once."""
    print(text, flush=True)
