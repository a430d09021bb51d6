"""Ranks of a rollout's responses by an annotator of the labelling tool, the work shared out to the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.labelling.annotators.judging import Judge, Question
from lit_rlhf.ops.noise import counter_key
from lit_rlhf.records import Experience, Row
from lit_rlhf.rewards.protocol import RewardError
from lit_rlhf.rollout.judging import groups_of


def annotator_ranks(
    judge: Judge,
    experience: Experience,
    rows: Sequence[Row],
    encoder: TextEncoder,
    draw: tuple[int, int],
    share: tuple[int, int],
) -> Tensor:
    """Ranks among the responses of each prompt, 1 = best, NaN where the annotator skipped the prompt, ``[N]``.

    Each rank asks about some of the prompts, and all of them get the answers to all.

    Args:
        judge: the annotator.
        experience: of all ranks.
        rows: the iteration's prompts, which `experience.prompt_index` is a place in.
        encoder: decodes the responses.
        draw: seed and iteration, from which the annotator's own randomness follows.
        share: this process's share of the data, from 0, and how many there are.

    Raises:
        RewardError: on every rank, where there was no use in asking on for one, or the annotator skipped all prompts.
    """
    groups = groups_of(experience.prompt_index)
    rank, ranks = share
    mine = range(rank, len(groups), ranks)
    questions = [_question(experience, groups[group], rows, encoder, draw) for group in mine]
    judged, skipped = judge.tally.judged, judge.tally.reasons.total()
    try:
        ranked = dict(zip(mine, judge(questions), strict=True))
        said: Any = (ranked, judge.tally.judged - judged, judge.tally.reasons.total() - skipped)
    except RewardError as error:
        said = error
    parts = _from_all(said)
    for part in parts:
        if isinstance(part, RewardError):
            raise part
    if 0 < sum(asked for _, asked, _ in parts) == sum(skips for _, _, skips in parts):
        why = "; ".join(line.strip() for line in judge.tally.lines()[1:])
        raise RewardError(
            f"model.annotator: it skipped every prompt of the rollout that it was asked about ({why}), so that there "
            "is nothing to learn from."
        )
    found = torch.full((len(experience),), torch.nan)
    for ranked, _, _ in parts:
        for group, given in ranked.items():
            if given is not None:
                found[groups[group]] = torch.tensor(given)
    return found


def _question(
    experience: Experience,
    places: list[int],
    rows: Sequence[Row],
    encoder: TextEncoder,
    draw: tuple[int, int],
) -> Question:
    prompt = int(experience.prompt_index[places[0]])
    return Question(
        prompt=rows[prompt].prompt,
        responses=[encoder.decode(experience.response_ids[place]) for place in places],
        finished=(~experience.truncated[places]).tolist(),
        name=experience.prompt_names[places[0]],
        number=int(counter_key(*draw, torch.tensor([prompt]))),
        columns=rows[prompt].columns,
    )


def _from_all(mine: Any) -> list[Any]:
    """What every process has, this one's first: it still knows where an error came from."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return [mine]
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, mine)
    return [mine, *parts]
