"""Experience: joined over ranks, and cut into what a training step sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lit_rlhf.data.trees import join_branches, pack_trees
from lit_rlhf.records import Experience, ExperienceBatch, ResponseTrees, Tree
from lit_rlhf.rewards.protocol import RewardError


def select(experience: Experience, indices: Sequence[int]) -> Experience:
    """The responses at `indices`, in that order; grids keep their width."""
    order = torch.as_tensor(list(indices), dtype=torch.long)
    chosen: dict[str, Any] = {}
    for entry in fields(experience):
        value = getattr(experience, entry.name)
        chosen[entry.name] = value[order] if isinstance(value, Tensor) else [value[i] for i in order.tolist()]
    return Experience(**chosen)


def join(parts: Sequence[Experience]) -> Experience:
    """The responses of all parts, one part behind the other; grids padded to the widest."""
    width = max(part.response_mask.shape[1] for part in parts)
    joined: dict[str, Any] = {}
    for entry in fields(Experience):
        values = [getattr(part, entry.name) for part in parts]
        if isinstance(values[0], list):
            joined[entry.name] = [item for value in values for item in value]
        elif values[0].dim() == 2:
            joined[entry.name] = torch.cat([pad(value, (0, width - value.shape[1])) for value in values])
        else:
            joined[entry.name] = torch.cat(values)
    return Experience(**joined)


def join_ranks(local: Experience | RewardError, data_ranks: int, ranks_a_share: int = 1) -> Experience:
    """Every rank's responses on every rank, in the order one process would have drawn them.

    Data rank r drew responses r, r + W, r + 2W, ...

    Args:
        local: this rank's responses, or why its reward gave none.
        data_ranks: W.
        ranks_a_share: processes, one behind the other, that drew the same responses together.

    Raises:
        RewardError: on every rank, where the reward of one failed; none is left waiting for the others.
    """
    parts: list[Any] = [local]
    if data_ranks * ranks_a_share > 1:
        parts = [None] * (data_ranks * ranks_a_share)
        torch.distributed.all_gather_object(parts, local)
    # this rank's own first: it still has the place in the function that it came from
    for part in (local, *parts):
        if isinstance(part, RewardError):
            raise part
    shares = parts[::ranks_a_share]
    if len(shares) == 1:
        return shares[0]
    joined = join(shares)
    starts = [0]
    for share in shares:
        starts.append(starts[-1] + len(share))
    order = [starts[index % data_ranks] + index // data_ranks for index in range(len(joined))]
    return select(joined, order)


def training_batch(experience: Experience, indices: Sequence[int]) -> ExperienceBatch:
    """What one training step sees of the experience: trees and the grids cut to their width.

    Responses of one prompt stand side by side, in one tree; else in the order of `indices`.
    """
    prompts = experience.prompt_index.tolist()
    first = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts[i] for i in indices))}
    part = select(experience, sorted(indices, key=lambda i: first[prompts[i]]))
    return cut_to(
        sampled_trees(part.prompt_ids, part.response_ids, part.failed.tolist(), part.prompt_names), part
    )


def cut_to(trees: ResponseTrees, part: Experience) -> ExperienceBatch:
    """Trees with the numbers of their responses, which stand in the same order; grids cut to the longest."""
    width = max(trees.response_lengths)
    return ExperienceBatch(
        trees=trees,
        old_logprobs=part.old_logprobs[:, :width],
        reference_logprobs=part.reference_logprobs[:, :width],
        values=part.values[:, :width],
        advantages=part.advantages[:, :width],
        returns=part.returns[:, :width],
        weights=part.weights,
    )


def sampled_trees(
    prompt_ids: list[list[int]],
    response_ids: list[list[int]],
    failed: Sequence[bool] | None = None,
    names: Sequence[str] | None = None,
) -> ResponseTrees:
    """Sampled responses as trees, neighbours of one prompt in one; every token counts, and none of one that failed."""
    failed = [False] * len(response_ids) if failed is None else failed
    names = [""] * len(response_ids) if names is None else names
    return pack_trees(
        join_branches(
            [
                Tree(prompt, [response], [[not fails] * len(response)], id=name)
                for prompt, response, fails, name in zip(prompt_ids, response_ids, failed, names, strict=True)
            ]
        )
    )


def experience_state(experience: Experience) -> dict[str, Any]:
    """Plain tensors and lists, for a checkpoint; ``Experience(**state)`` brings it back."""
    return {entry.name: getattr(experience, entry.name) for entry in fields(experience)}
