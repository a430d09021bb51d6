"""Experience: joined over ranks, priced and turned into advantages, cut into what a training step sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.ops.advantages import generalized_advantages, kl_penalized_rewards
from lit_rlhf.ops.kl import k1
from lit_rlhf.ops.masking import masked_whiten
from lit_rlhf.records import Experience, ExperienceBatch, ResponseTrees, Tree


def estimate_advantages(
    experience: Experience, kl_coef: float, gamma: float, lam: float, whiten: bool
) -> Experience:
    """The experience with rewards, advantages and returns.

    R_t = −β·k1_t + [t = last]·score, then GAE; whitening runs over the whole rollout, after the returns
    were taken.

    Args:
        experience: all ranks' responses.
        kl_coef: β, the price of one nat.
        gamma: discount.
        lam: GAE's λ.
        whiten: advantages to mean 0 and variance 1.
    """
    mask = experience.response_mask
    price = k1(experience.old_logprobs, experience.reference_logprobs)
    rewards = kl_penalized_rewards(experience.scores, price, mask, kl_coef)
    advantages, returns = generalized_advantages(experience.values, rewards, mask, gamma, lam)
    if whiten:
        advantages = masked_whiten(advantages, mask)
    return replace(experience, rewards=rewards, advantages=advantages, returns=returns)


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


def join_ranks(local: Experience, world_size: int) -> Experience:
    """Every rank's responses on every rank, in the order one process would have drawn them.

    Rank r drew responses r, r + W, r + 2W, ...
    """
    if world_size == 1:
        return local
    parts: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(parts, local)
    joined = join(parts)
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + len(part))
    order = [starts[index % world_size] + index // world_size for index in range(len(joined))]
    return select(joined, order)


def training_batch(experience: Experience, indices: Sequence[int]) -> ExperienceBatch:
    """What one training step sees of the experience: trees and the grids cut to their width."""
    part = select(experience, indices)
    trees = one_response_trees(part.prompt_ids, part.response_ids)
    width = max(trees.response_lengths)
    return ExperienceBatch(
        trees=trees,
        old_logprobs=part.old_logprobs[:, :width],
        values=part.values[:, :width],
        advantages=part.advantages[:, :width],
        returns=part.returns[:, :width],
    )


def one_response_trees(prompt_ids: list[list[int]], response_ids: list[list[int]]) -> ResponseTrees:
    """A tree for each sampled response, every one of its tokens counted."""
    pairs = zip(prompt_ids, response_ids, strict=True)
    return pack_trees([Tree(prompt, [response], [[True] * len(response)]) for prompt, response in pairs])


def experience_state(experience: Experience) -> dict[str, Any]:
    """Plain tensors and lists, for a checkpoint; ``Experience(**state)`` brings it back."""
    return {entry.name: getattr(experience, entry.name) for entry in fields(experience)}
