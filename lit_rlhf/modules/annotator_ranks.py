"""Ranks of a rollout's responses by an annotator of the labelling tool, the work shared out to the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.labelling.annotators.judging import Judge, Question
from lit_rlhf.labelling.annotators.opinions import Tally
from lit_rlhf.models.sharding import reshard
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
) -> tuple[Tensor, Tally]:
    """Ranks among the responses of each prompt, 1 = best, NaN where the annotator skipped the prompt, ``[N]``.

    Each share of the data asks about some of the prompts, and every process gets the answers to all. Of processes that
    have one share together the first asks; where they hold the annotator's weights together, too, all of them do, and
    the answers of the first are taken.

    Args:
        judge: the annotator.
        experience: of all ranks.
        rows: the iteration's prompts, which `experience.prompt_index` is a place in.
        encoder: decodes the responses.
        draw: seed and iteration, from which the annotator's own randomness follows.
        share: this process's share of the data, from 0, and how many there are.

    Returns:
        The ranks, and what was said of this rollout, on every process the same; `judge.tally` is of all rollouts.

    Raises:
        RewardError: on every rank, where there was no use in asking on for one, or the annotator skipped all prompts.
    """
    groups = groups_of(experience.prompt_index)
    (data_rank, data_ranks), (process, processes) = share, _place()
    a_share = processes // data_ranks  # processes, one behind the other
    asks = process % a_share == 0 or judge.is_sharded
    mine = range(data_rank, len(groups), data_ranks) if asks else range(0)
    questions = [_question(experience, groups[group], rows, encoder, draw) for group in mine]
    so_far, judge.tally = judge.tally, Tally()
    try:
        said: Any = (dict(zip(mine, judge(questions), strict=True)), judge.tally)
    except RewardError as error:
        said = error
    finally:
        judge.tally = so_far
    for network in judge.networks():
        reshard(network)  # what it has left gathered is memory that the updates need
    parts = _from_all(said, processes)
    # this one's own error first: it still knows where it came from
    for part in (said, *parts):
        if isinstance(part, RewardError):
            raise part
    parts = parts[::a_share]
    tally = sum((counted for _, counted in parts), Tally())
    if 0 < tally.judged == tally.skipped:
        why = "; ".join(line.strip() for line in tally.lines()[1:])
        raise RewardError(
            f"model.annotator: it skipped every prompt of the rollout that it was asked about ({why}), so that there "
            "is nothing to learn from."
        )
    judge.tally = so_far + tally
    found = torch.full((len(experience),), torch.nan)
    for ranked, _ in parts:
        for group, given in ranked.items():
            if given is not None:
                found[groups[group]] = torch.tensor(given)
    return found, tally


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


def _place() -> tuple[int, int]:
    """Which process this is, from 0, and how many there are."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def _from_all(mine: Any, processes: int) -> list[Any]:
    """What every process has, in their order."""
    parts = [mine] * processes
    if processes > 1:
        torch.distributed.all_gather_object(parts, mine)
    return parts
