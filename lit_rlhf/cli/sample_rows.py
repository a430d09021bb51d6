"""The rows of ``lit-rlhf sample``: what is kept of a prompt's row, and what is said of its responses."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from jinja2 import TemplateError

from lit_rlhf.cli.sample_draws import Drawn
from lit_rlhf.cli.score_reading import Rows, read_files, say
from lit_rlhf.data.layouts import native_fields
from lit_rlhf.data.tokenization import TextEncoder, TokenizationError
from lit_rlhf.data.trees import plant_tree
from lit_rlhf.records import Row, Tree
from lit_rlhf.rollout.settings import SamplingSettings

JUDGEMENTS = {"ranking", "ranks", "scores"}
OF_OTHER_RESPONSES = {
    *JUDGEMENTS, "responses", "answers", "completions", "finished", "reward_scores", "reward_ranks",
    "reward_disagreement",
}  # fmt: skip
"""Columns that would be read as the new responses, or as judgements of them."""


class Told(NamedTuple):
    """What a written row says, in numbers."""

    responses: int
    unfinished: int
    unscored: int


def read_prompts(paths: Sequence[str], limit: int | None) -> Rows:
    """The prompts of some files; a line says which columns will not be kept.

    Raises:
        FileNotFoundError: a path that is not there.
        BadRowsError: rows that cannot be read.
    """
    read = read_files(paths, "prompts")
    read = Rows(read.fields[:limit], read.rows[:limit], read.kinds[:limit])
    left = Counter(name for fields in read.fields for name in fields if name not in kept_fields(fields))
    renamed = left.pop("source", 0) and sum("prompt_source" in kept_fields(fields) for fields in read.fields)
    left.pop("sampling", None)
    if left:
        names = ", ".join(f"{name} ({count} rows)" for name, count in sorted(left.items()))
        say(f"left out, because they speak of other responses: {names}")
    if renamed:
        say(
            f"`source` of {renamed} rows is kept as `prompt_source`: `source` says where the responses come from"
        )
    return read


def plant_prompts(rows: Sequence[Row], encoder: TextEncoder) -> list[Tree]:
    """The prompts in tokens.

    Raises:
        TokenizationError: one cannot be rendered, or is empty and there is no BOS; with its place.
    """
    trees = []
    for row in rows:
        try:
            trees += plant_tree(row, encoder)[0]
        except TokenizationError as error:
            raise TokenizationError(str(error).replace("--data.chat_template", "--chat-template")) from None
        except TemplateError as error:
            raise TokenizationError(f"{row.place}: the chat template refuses the prompt: {error}") from None
    return trees


def kept_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a prompt's row that stay; a `source` of the prompt gets another name."""
    kept = {
        name: value
        for name, value in fields.items()
        if name not in OF_OTHER_RESPONSES and name not in ("source", "sampling")
    }
    if "source" in fields and "responses" not in fields:
        kept.setdefault("prompt_source", fields["source"])
    if JUDGEMENTS & native_fields({**kept, "responses": []}).keys():
        kept.pop("response", None)  # one of HelpSteer's, whose ratings would be read as those of the new ones
    return kept


def written_row(
    fields: Mapping[str, Any],
    row: Row,
    source: str,
    sampling: Mapping[str, Any],
    drawn: Sequence[Drawn],
    scores: Sequence[float | None] | None,
) -> dict[str, Any]:
    """A row of the candidates file.

    Args:
        fields: the prompt's row as its file has it.
        row: the same as it is read.
        source: the model.
        sampling: where the responses come from, in full.
        drawn: the responses.
        scores: what a reward model says of them; None = nobody was asked.
    """
    kept = kept_fields(fields)
    kept.pop("prompt", None)
    name = kept.pop("id", None)
    written = {
        "id": row.place if name is None else name,
        "prompt": row.prompt,
        **kept,
        "responses": [one.text for one in drawn],
        "finished": [one.finished for one in drawn],
        "source": source,
        "sampling": dict(sampling),
    }
    return written if scores is None else {**written, "reward_scores": list(scores)}


def told_by(line: bytes) -> Told | None:
    """What a line of an unfinished file says; None where it is no such line."""
    try:
        row = json.loads(line.decode("utf-8"))
        responses, finished = row["responses"], row["finished"]
        scores = row.get("reward_scores", [])
        return Told(len(responses), sum(not end for end in finished), sum(value is None for value in scores))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None


def settings_as_written(settings: SamplingSettings) -> dict[str, Any]:
    """What changes the responses, in values that JSON has."""
    plain = asdict(settings)
    del plain["max_cached_tokens"]
    bias = settings.logit_bias or {}
    plain["logit_bias"] = {
        str(number): value if math.isfinite(value) else str(value) for number, value in bias.items()
    } or None
    return plain
