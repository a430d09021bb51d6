"""Sampled responses looked at by the networks that price them: one pass of each over response trees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lit_rlhf.models.actor_critic import ActorCritic
from lit_rlhf.models.adapter_critic import AdapterCritic
from lit_rlhf.models.decoding import most_over_ranks
from lit_rlhf.models.modes import evaluating
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.models.sharding import is_sharded
from lit_rlhf.models.value_head import ValueHead
from lit_rlhf.records import ResponseTrees
from lit_rlhf.rollout.experience import sampled_trees
from lit_rlhf.rollout.responses import SampledResponses

AGREES = 1e-4
"""Nats a token in the mean, between the sampler's and the update's forward, that are taken for rounding."""


@dataclass
class Looks:
    """What the networks say of each token; grids ``[N, R]`` on the CPU."""

    old_logprobs: Tensor
    recomputed_logprobs: Tensor
    """NaN in responses that the policy's training forward did not see."""
    reference_logprobs: Tensor
    values: Tensor
    """0 without a critic."""


@torch.no_grad()
def look_at(
    network: ActorCritic | PolicyNetwork,
    reference: Callable[..., Any] | None,
    prompt_ids: list[list[int]],
    sampled: SampledResponses,
    temperature: float,
    batch_size: int,
    device: torch.device | str,
    recompute: bool,
) -> Looks:
    """Old and reference log-probabilities and values of sampled responses.

    The old log-probabilities are those that the tokens were drawn with. The training forward sees some of the
    responses too; where it is found to give others, as it does in bf16, it sees all, and its own are taken, so that
    the first ratio is 1.

    Args:
        network: policy and critic, or the policy alone.
        reference: what the KL price is measured against; None = the network itself.
        prompt_ids: N lists, those of one prompt side by side.
        sampled: N responses.
        temperature: logits are divided by it.
        batch_size: responses in one forward.
        device: where the networks are.
        recompute: whether the training forward sees all responses in any case, and its numbers are taken.
    """

    sharded = is_sharded(network)  # then all ranks run as many forwards, and come to one decision
    starts = range(0, len(prompt_ids), batch_size)
    count = most_over_ranks(len(starts), sharded, device)

    def in_batches() -> Iterator[tuple[slice, ResponseTrees]]:
        for number in range(count):
            start = starts[min(number, len(starts) - 1)]  # where others have more, the last one again
            part = slice(start, start + batch_size)
            yield part, sampled_trees(prompt_ids[part], sampled.response_ids[part]).to(device)

    drawn = sampled.logprobs.float().cpu()
    recomputed = torch.full_like(drawn, torch.nan)
    seen_values = torch.zeros_like(drawn)
    critic = network.critic if isinstance(network, ActorCritic) else None
    shared = isinstance(critic, ValueHead)
    recompute = recompute or (shared and sampled.values is None)  # transformers' generate gives none
    with evaluating(network):
        for part, trees in in_batches():
            seen = network(trees, temperature, **({} if critic is None else {"with_values": shared}))
            recomputed[part] = _as_wide(seen.logprobs, drawn)
            if shared:
                seen_values[part] = _as_wide(seen.values, drawn)
            recompute = recompute or _apart(recomputed[part], drawn[part], trees) > AGREES
            recompute = bool(most_over_ranks(int(recompute), sharded, device))
            if not recompute:
                break
        old_logprobs = recomputed if recompute else drawn
        if reference is None:
            return Looks(old_logprobs, recomputed, old_logprobs.clone(), torch.zeros_like(drawn))
        reference_logprobs, own_values = torch.zeros_like(drawn), torch.zeros_like(drawn)
        for part, trees in in_batches():
            reference_logprobs[part] = _as_wide(reference(trees, temperature).logprobs, drawn)
            if isinstance(network, ActorCritic) and isinstance(critic, ScorerNetwork | AdapterCritic):
                own_values[part] = _as_wide(network.values(trees), drawn)
    if shared:
        own_values = seen_values if sampled.values is None or recompute else sampled.values.float().cpu()
    return Looks(old_logprobs, recomputed, reference_logprobs, own_values)


def _as_wide(grid: Tensor, other: Tensor) -> Tensor:
    return pad(grid.float().cpu(), (0, other.shape[1] - grid.shape[1]))


def _apart(recomputed: Tensor, drawn: Tensor, trees: ResponseTrees) -> float:
    """Mean difference over the tokens; both grids are 0 behind a response's end."""
    return (recomputed - drawn).abs().sum().item() / max(1, sum(trees.response_lengths))
