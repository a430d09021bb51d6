"""Files of prompts through a policy: read, answered in windows that reach the disk at once, written whole."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from lit_rlhf import __version__
from lit_rlhf.cli.row_progress import RowProgress
from lit_rlhf.cli.sample_best import Judge
from lit_rlhf.cli.sample_draws import draw_different, windows
from lit_rlhf.cli.sample_policy import Policy, load_encoder, load_policy
from lit_rlhf.cli.sample_rows import (
    Told,
    kept_fields,
    plant_prompts,
    read_prompts,
    settings_as_written,
    told_by,
    written_row,
)
from lit_rlhf.cli.score_lines import appending, json_line, part_of, read_lines
from lit_rlhf.cli.score_reading import Rows, named, say
from lit_rlhf.models.fingerprint import fingerprint_of_stored
from lit_rlhf.models.loading import resolve_model_name
from lit_rlhf.modules.reference_file import rows_fingerprint
from lit_rlhf.records import Row, Tree
from lit_rlhf.rollout.settings import SamplingSettings

TRIES = 4
"""Times as many samples as responses are drawn at the most, to have different ones."""


def sample_files(arguments: argparse.Namespace, settings: SamplingSettings) -> None:
    """``lit-rlhf sample`` with its arguments parsed.

    Raises:
        ValueError: the model is none that samples, a row cannot be read, or a prompt is too long.
    """
    model = resolve_model_name(arguments.model)
    read = read_prompts(arguments.prompts, arguments.limit)
    encoder = load_encoder(model, arguments.chat_template)
    trees = plant_prompts(read.rows, encoder)
    policy = load_policy(model, encoder, settings, arguments.device)
    check_lengths(trees, read.rows, policy)
    judge = None
    if arguments.reward is not None:
        judge = Judge(arguments.reward, policy.device)
        judge.check_prompts(read.rows)
    sampling = provenance(arguments, model, policy.settings)
    out = Path(arguments.out)
    key = sampling_key(arguments.model, sampling, arguments.k, trees, read)
    part = part_of(out, key, "model (or spelling of it), settings or rows")
    with appending(part, "drawn") as file:
        told = read_lines(part, len(trees), told_by, "sampled")
        draw_rows(arguments, policy, judge, read, trees, sampling, file, told)
        os.replace(part, out)
    for line in summary(out, told, arguments, settings):
        say(line)


def draw_rows(
    arguments: argparse.Namespace,
    policy: Policy,
    judge: Judge | None,
    read: Rows,
    trees: Sequence[Tree],
    sampling: Mapping[str, Any],
    file: TextIO,
    told: list[Told],
) -> None:
    """Write the rows that `file` does not hold yet behind those that it does.

    Args:
        arguments: of the command.
        policy: what draws.
        judge: chooses among what was drawn, or None.
        read: the prompts' rows.
        trees: the same in tokens.
        sampling: provenance, of every row.
        file: of the rows.
        told: what is told of the rows that it holds; that of the others is put behind it.
    """
    if told:
        say(f"{len(told)} of {len(trees)} rows are there already")
    wanted = arguments.best_of or arguments.k
    tries = wanted if judge is not None else TRIES * wanted
    prompts = [tree.prompt_ids for tree in trees]
    progress = RowProgress("sampling", len(trees) * wanted, len(told) * wanted, unit="response")
    with progress:
        for rows in windows(len(told), len(trees), wanted):
            drawn = draw_different(policy, prompts, rows, wanted, tries, arguments.seed, progress.advance)
            scores: Sequence[Sequence[float | None] | None] = [None] * len(rows)
            if judge is not None:
                drawn, scores = judge.best([read.rows[number].prompt for number in rows], drawn, arguments.k)
            for number, some, said in zip(rows, drawn, scores, strict=True):
                row = written_row(
                    read.fields[number], read.rows[number], arguments.model, sampling, some, said
                )
                file.write(json_line(row))
                unscored = sum(value is None for value in said or ())
                told.append(Told(len(some), sum(not one.finished for one in some), unscored))
            file.flush()


def check_lengths(trees: Sequence[Tree], rows: Sequence[Row], policy: Policy) -> None:
    """Refuse prompts that the model cannot read; name those that it has little room behind, or no training for.

    Raises:
        ValueError: with the places of the first ones.
    """
    positions, most = policy.positions, policy.settings.max_new_tokens
    cached, trained = policy.settings.max_cached_tokens, policy.trained_positions
    lengths = [len(tree.prompt_ids) for tree in trees]
    needed = max(lengths) + most
    if cached is not None and cached < needed:
        raise ValueError(
            f"--max-cached-tokens: expected at least {needed}, the longest prompt with its response, found {cached}."
        )
    limit = positions or trained
    if limit is None:
        return
    over = [row.place for row, length in zip(rows, lengths, strict=True) if length > limit]
    if over and positions:
        raise ValueError(
            f"{len(over)} of {len(rows)} prompts are longer than the model's {positions} positions ({named(over)}): "
            "shorten them or take them out; none is cut or left out here."
        )
    # the last token is drawn and not fed, so it needs no position
    tight = [row.place for row, length in zip(rows, lengths, strict=True) if length + most > limit + 1]
    if tight and positions:
        say(
            f"{len(tight)} of {len(rows)} prompts leave room for fewer than {most} tokens in the model's {positions} "
            f"positions ({named(tight)}): their responses are cut off there"
        )
    elif tight:
        say(
            f"warning: {len(tight)} of {len(rows)} prompts, {len(over)} of them by themselves, may run with {most} new "
            f"tokens past the {trained} positions that the model was trained on ({named(tight)}): they are rotary, so "
            "it goes on there"
        )


def provenance(arguments: argparse.Namespace, model: str, settings: SamplingSettings) -> dict[str, Any]:
    """What `sampling` says in every row: with it and the prompts the responses can be drawn again."""
    said = {
        "fingerprint": fingerprint_of_stored(model),
        "seed": arguments.seed,
        "version": __version__,
        **settings_as_written(settings),
    }
    if arguments.chat_template is not None:
        said["chat_template"] = arguments.chat_template
    if arguments.reward is not None:
        said["best_of"] = arguments.best_of
        said["reward"] = arguments.reward
        said["reward_fingerprint"] = fingerprint_of_stored(resolve_model_name(arguments.reward))
    return said


def sampling_key(source: str, sampling: Mapping[str, Any], k: int, trees: Sequence[Tree], read: Rows) -> str:
    """64 hex digits that change with whatever the written rows depend on, the spelling of the model among it."""
    digest = hashlib.sha256(json.dumps([source, sampling, k]).encode())
    digest.update(rows_fingerprint(trees).encode())
    for row, fields in zip(read.rows, read.fields, strict=True):
        digest.update(json_line({"place": row.place, **kept_fields(fields)}).encode())
    return digest.hexdigest()


def summary(
    out: Path, told: Sequence[Told], arguments: argparse.Namespace, settings: SamplingSettings
) -> list[str]:
    """What was written, and what is less than was asked for."""
    responses = sum(one.responses for one in told)
    lines = [f"{out}: {len(told)} rows, {responses} responses"]
    fewer = sum(one.responses < arguments.k for one in told)
    if fewer:
        draws = arguments.best_of or TRIES * arguments.k
        lines.append(
            f"  {fewer} prompts got fewer than {arguments.k}: {draws} draws gave no more different ones"
        )
    unfinished = sum(one.unfinished for one in told)
    if unfinished:
        lines.append(
            f"  {unfinished} responses were cut off before an end (--max-new-tokens {settings.max_new_tokens})"
        )
    unscored = sum(one.unscored for one in told)
    if unscored:
        lines.append(f"  {unscored} responses have no score: they are too long for {arguments.reward}")
    return lines
