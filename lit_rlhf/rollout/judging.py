"""From what was said of a rollout's responses to comparisons: ranks within each prompt, and trees that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_rlhf.data.judgements import compare_ranks
from lit_rlhf.data.rankings import ranks_of_scores
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.records import Comparison, Experience, ExperienceBatch, Tree
from lit_rlhf.rollout.experience import cut_to, select

Compared = Literal["all", "best_worst"]
"""Which responses of a prompt are compared."""
COMPARED: tuple[str, ...] = get_args(Compared)


def groups_of(prompt_index: Tensor) -> list[list[int]]:
    """The places of each prompt's responses, in order.

    Args:
        prompt_index: Long ``[N]``, of one prompt side by side or not.

    Example:
        >>> groups_of(torch.tensor([0, 0, 1, 0]))
        [[0, 1, 3], [2]]
    """
    groups: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompt_index.tolist()):
        groups.setdefault(prompt, []).append(place)
    return list(groups.values())


def ranks_within(scores: Tensor, failed: Tensor, prompt_index: Tensor) -> Tensor:
    """Ranks among the responses of each prompt: 1 = the highest score, equal scores tie, NaN where it failed.

    Args:
        scores: ``[N]``.
        failed: has no score. Bool ``[N]``.
        prompt_index: Long ``[N]``.

    Returns:
        Float ``[N]``.

    Example:
        >>> ranks_within(torch.tensor([1.0, 3.0, 3.0, 0.0]), torch.zeros(4, dtype=torch.bool), torch.zeros(4).long())
        tensor([3., 1., 1., 4.])
    """
    ranks = torch.full(scores.shape, torch.nan)
    for places in groups_of(prompt_index):
        given = [None if failed[place] else scores[place].item() for place in places]
        ranks[places] = torch.tensor([torch.nan if rank is None else rank for rank in ranks_of_scores(given)])
    return ranks


def comparisons_of(
    ranks: list[float | None], responses: Sequence[list[int]], compared: Compared
) -> list[Comparison]:
    """What the ranks say of pairs of different responses; those of equal rank are ties.

    Args:
        ranks: of the prompt's responses, a list, None = not judged.
        responses: their ids; of two that are the same nothing can be learnt.
        compared: ``all`` = every pair; ``best_worst`` = the first of the best against the last of the worst.
    """
    if compared == "best_worst":
        judged = [rank for rank in ranks if rank is not None]
        if not judged:
            return []
        ends = {ranks.index(min(judged)), len(ranks) - 1 - ranks[::-1].index(max(judged))}
        ranks = [rank if place in ends else None for place, rank in enumerate(ranks)]
    return [one for one in compare_ranks(ranks) if responses[one.better] != responses[one.worse]]


def share_decided(experience: Experience, compared: Compared) -> float:
    """Share of the prompts of which one response at least was put above another, different one."""
    groups = groups_of(experience.prompt_index)
    decided = [any(one.tie < 1 for one in tree.comparisons) for tree in _trees(experience, groups, compared)]
    return sum(decided) / len(groups)


def judged_batch(experience: Experience, indices: Sequence[int], compared: Compared) -> ExperienceBatch:
    """What one training step sees of the experience: a tree for each prompt, with ranks and comparisons.

    Args:
        experience: with its ranks.
        indices: responses; those of a prompt side by side.
        compared: see :func:`comparisons_of`.
    """
    part = select(experience, indices)
    return cut_to(pack_trees(_trees(part, groups_of(part.prompt_index), compared)), part)


def _trees(experience: Experience, groups: list[list[int]], compared: Compared) -> list[Tree]:
    trees = []
    for places in groups:
        responses = [experience.response_ids[place] for place in places]
        said = experience.ranks[places].tolist()
        ranks = [None if rank != rank else rank for rank in said]  # NaN is not itself
        judged = sum(rank is not None for rank in ranks)
        masks = [
            [not failed] * len(ids)
            for ids, failed in zip(responses, experience.failed[places].tolist(), strict=True)
        ]
        trees.append(
            Tree(
                experience.prompt_ids[places[0]],
                responses,
                masks,
                comparisons_of(ranks, responses, compared),
                ranks
                if judged > 1
                else [1.0] * len(ranks),  # one alone is no ranking: a tie, which says nothing
                id=experience.prompt_names[places[0]],
            )
        )
    return trees
