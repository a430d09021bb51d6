"""What has to be true of a reward before a policy learns from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_rlhf.models.loading import is_scorer_folder, looks_local
from lit_rlhf.models.stored_weights import stored_names
from lit_rlhf.rewards.protocol import Completions
from lit_rlhf.rewards.remote.wire import is_address
from lit_rlhf.rollout.truth import Truth, agreement

CLOSE = 1e-3
"""How far scores of one response may lie apart, relative to the largest score where that is over 1."""
ASKED_ALONE = 4
"""Responses that are scored once more by themselves."""


def reward_truths(
    score: Callable[[Completions], Tensor], spec: Any, completions: Completions, tolerance: float = CLOSE
) -> list[Truth]:
    """The truths of a reward, from some responses that it scores several times over.

    Args:
        score: completions to scores ``[N]``; NaN where the reward does not apply.
        spec: what the config says of it, which names the folders.
        completions: at least one response.
        tolerance: see :data:`CLOSE`.
    """
    together = score(completions)
    some = range(min(ASKED_ALONE, len(together)))
    alone = torch.cat([score(completions.select([number])) for number in some])
    beside = torch.stack([score(beside_longer(completions.select([number])))[0] for number in some])
    folders = model_folders(spec)
    return [
        *(head_is_stored(folder) for folder in folders),
        *([scores_differ(together)] if folders and len(together) > 1 else []),
        scores_repeat(together, score(completions), tolerance),
        scores_ignore_the_batch(together[: len(alone)], alone, tolerance),
        scores_ignore_padding(alone, beside, tolerance),
    ]


def model_folders(spec: Any) -> list[str]:
    """The folders and hub names of reward models that a config's `reward` names, in its order; no addresses.

    >>> model_folders([{"reward": "./a"}, {"reward": {"ensemble": ["./b", "./c"]}}, {"reward": "package.function"}])
    ['./a', './b', './c']
    """
    if isinstance(spec, str):
        return [spec] if (looks_local(spec) or "/" in spec) and not is_address(spec) else []
    if isinstance(spec, dict):
        parts = spec.get("ensemble", []) if "ensemble" in spec else [spec.get("reward")]
    else:
        parts = spec if isinstance(spec, list) else []
    return [folder for part in parts for folder in model_folders(part)]


def head_is_stored(folder: str) -> Truth:
    """Whether the folder of a reward model holds its head: transformers makes a random one in its place."""
    name = f"the head of {folder} was loaded"
    is_local = Path(folder).expanduser().is_dir()
    if not is_scorer_folder(str(Path(folder).expanduser()) if is_local else folder):
        said = (
            "it is a causal language model without a head for scores, so the head that scores here is a random one. "
            "Give the export of a reward run (<run>/export)."
        )
        return Truth(name, False, said)
    stored = stored_names(folder)
    if "score.weight" not in stored:
        heads = sorted(key for key in stored if key.count(".") == 1) or sorted(stored)[:3]
        said = (
            f"its weights hold no score.weight (beside the trunk there is {', '.join(heads[:4])}), so the head that "
            "scores here is a random one. Export the reward model again: something has left its head behind."
        )
        return Truth(name, False, said)
    return Truth(name, True, f"score.weight is one of {len(stored)} tensors")


def scores_differ(scores: Tensor) -> Truth:
    """Whether a reward model tells responses apart."""
    spread = scores[~scores.isnan()].std(correction=0).item()
    return Truth(
        "scores differ between responses",
        spread > 0,
        f"standard deviation {spread:.3g}"
        if spread > 0
        else f"all {len(scores)} are {scores[0].item():.4g}: the model's head is zero, or it reads the same token of "
        "every response. Score a file of yours with `lit-rlhf score` to see.",
    )


def scores_repeat(first: Tensor, second: Tensor, tolerance: float = CLOSE) -> Truth:
    """Whether the same responses get the same scores when they are asked for twice."""
    wrong = (
        "the reward draws at random, or its model drops out. Put the model into eval mode, and make what is drawn "
        "depend on the response alone."
    )
    return agreement("scores are the same when asked twice", first, second, tolerance, wrong)


def scores_ignore_the_batch(together: Tensor, alone: Tensor, tolerance: float = CLOSE) -> Truth:
    """Whether a response's score depends on it alone, and not on how many are scored with it."""
    wrong = (
        "the reward compares the responses of a call with each other, or reads another one's tokens. Score each by "
        "itself; whitening is the module's (model.shaping, model.whiten_advantages)."
    )
    return agreement("scores do not depend on the batch size", together, alone, tolerance, wrong)


def scores_ignore_padding(alone: Tensor, beside: Tensor, tolerance: float = CLOSE) -> Truth:
    """Whether a response's score is the same beside a longer one, where padded batches are padded."""
    wrong = (
        "beside a longer response the score is read at a padded position, or attention reads padding. Take the last "
        "token by the response's length, never by looking for a pad id."
    )
    return agreement("scores do not depend on padding", alone, beside, tolerance, wrong)


def beside_longer(completions: Completions) -> Completions:
    """One response, and behind it another to the same prompt that is longer: its own text, three times."""
    both = completions.select([0, 0])
    ids = both.response_ids[0]
    return replace(
        both,
        texts=[both.texts[0], both.texts[0] * 3],
        response_ids=[ids, (ids[:-1] or ids) * 2 + ids],
    )
