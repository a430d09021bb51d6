"""Files of responses through a reward model: read, scored, written with their scores, evaluated."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lit_rlhf.cli.score_report import report_on_rows
from lit_rlhf.cli.scoring import RowScores, positions_of, ranks_of, score_rows, scoring_key, too_long
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


@dataclass
class Rows:
    """The rows of some files, each as it was and as it is read."""

    fields: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


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
    encoder = TextEncoder(load_tokenizer(model))
    trees = [plant_tree(row, encoder)[0][0] for row in read.rows]
    network = load_scorer(model)
    say_too_long(trees, [row.place for row in read.rows], network)
    out = Path(arguments.out)
    part = out.with_name(f"{out.name}.{scoring_key(model, trees)[:16]}.part")
    others = [str(file) for file in sorted(out.parent.glob(f"{out.name}.*.part")) if file != part]
    if others:
        say(f"unfinished, of another model or other rows, yours to delete: {', '.join(others)}")
    found = score_rows(network, trees, part, arguments.max_tokens, choose_device(arguments.device))
    write_scored(out, read.fields, found)
    folder = Path(arguments.report) if arguments.report else out.with_name(f"{out.stem}-report")
    training = read_files([arguments.train]).rows if arguments.train else None
    report_on_rows(read.rows, trees, found, training, arguments.model, arguments.files, folder)
    part.unlink()
    for line in summary(out, read.fields, found):
        say(line)


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
                out.rows.append(parse_row(fields, kind_of(fields), place))
                out.fields.append(dict(fields))
            except RowError as error:
                bad.append(error)
    if bad:
        *lines, _ = describe_bad(bad, len(out.rows)).splitlines()
        raise BadRowsError(
            "\n".join([*lines, "Mend or remove them: every row is to be written with its scores."])
        )
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


def write_scored(out: Path, fields: Sequence[Mapping[str, Any]], found: Sequence[RowScores]) -> None:
    """The rows with their scores as JSON lines, whole or not at all."""
    several = any(value for one in found for value in one.disagreement)
    beside = out.with_name(f"{out.name}.{os.getpid()}.partial")
    with open(beside, "w", encoding="utf-8") as file:
        for row, one in zip(fields, found, strict=True):
            added: dict[str, Any] = {"reward_scores": one.scores, "reward_ranks": ranks_of(one.scores)}
            if several:
                added["reward_disagreement"] = one.disagreement
            file.write(json.dumps({**row, **added}, ensure_ascii=False, default=str) + "\n")
    os.replace(beside, out)


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
