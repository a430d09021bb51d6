"""A validation split that never puts one prompt on both sides, or where prompts are few, one pair."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from lit_rlhf.data.files import prompt_key
from lit_rlhf.records import Row

MIN_PROMPTS = 20
"""With fewer distinct prompts than this the split goes by row, those with the same responses together."""


def split_rows(rows: Sequence[Row], fraction: float, seed: int = 0) -> tuple[list[int], list[int], str]:
    """Which rows train and which validate.

    Prompts are put in the order of a hash of (seed, prompt), and the first `fraction` of them validate: the
    choice does not depend on the order of the rows, nor on the process. Where prompts are fewer than `MIN_PROMPTS`,
    each prompt with its responses, in any order, stands for a prompt.

    Args:
        rows: All rows.
        fraction: Share of the distinct prompts (or rows) that goes to validation, above 0 and below 1.
        seed: Another seed, another split.

    Returns:
        Indices for training, indices for validation, and a line that says by what the split went.

    Raises:
        ValueError: `fraction` is out of range, or there are fewer than two different rows.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"val_fraction: expected a share above 0 and below 1, found {fraction}")
    if len(rows) < 2:
        raise ValueError(
            f"data.val_fraction: expected two rows or more to split, found {len(rows)}. Set it to 0, or give "
            "data.val_path. (Labelled responses of one prompt are one row.)"
        )
    keys = [prompt_key(row) for row in rows]
    distinct = len(set(keys))
    by_row = distinct < MIN_PROMPTS
    if by_row:
        keys = [responses_key(row) for row in rows]
        if len(set(keys)) < 2:
            raise ValueError(
                f"val_fraction: expected two rows or more that differ in prompt or responses, found {len(rows)} of "
                "the same: give data.val_path, or set data.val_fraction to 0"
            )
    ordered = sorted(set(keys), key=lambda key: hashlib.blake2b(f"{seed}:{key}".encode()).digest())
    wanted = min(len(ordered) - 1, max(1, round(fraction * len(ordered))))
    chosen = set(ordered[:wanted])
    train = [place for place, key in enumerate(keys) if key not in chosen]
    val = [place for place, key in enumerate(keys) if key in chosen]
    if by_row:
        note = (
            f"validation split by row, since the distinct prompts are too few (found {distinct}, a split by prompt "
            f"needs {MIN_PROMPTS}): the same prompt can stand on both sides, with other responses"
        )
    else:
        unit = "texts" if rows[0].is_text else "prompts"
        note = f"validation split by prompt: {wanted} of {distinct} {unit}, {len(val)} of {len(rows)} rows"
    return train, val, note


def responses_key(row: Row) -> str:
    """What makes two rows have the same prompt and the same responses, in any order."""
    responses = sorted(json.dumps(response, sort_keys=True) for response in row.responses)
    return json.dumps([row.prompt, responses], sort_keys=True)


def shared_prompts(rows: Sequence[Row], others: Sequence[Row]) -> int:
    """How many distinct prompts of `others` stand in `rows` too."""
    return len({prompt_key(row) for row in rows} & {prompt_key(row) for row in others})
