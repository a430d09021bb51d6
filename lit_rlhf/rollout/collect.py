"""Prompts to experience: sample, score, and look at the responses with the networks that price them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.models.actor_critic import ActorCritic
from lit_rlhf.models.reference import Reference
from lit_rlhf.models.sharding import is_sharded
from lit_rlhf.records import Experience, Row
from lit_rlhf.rewards.protocol import Completions, RewardError
from lit_rlhf.rollout.pricing import look_at
from lit_rlhf.rollout.responses import SampledResponses
from lit_rlhf.rollout.sampling import sample_responses
from lit_rlhf.rollout.settings import SamplingSettings


@dataclass
class RolloutRequest:
    """The responses that one rank is to draw: one entry for each."""

    rows: list[Row]
    prompt_index: Tensor
    """Long ``[N]``: which of the iteration's prompts each is for."""
    prompt_ids: list[list[int]]
    keys: Tensor
    """Long ``[N]``, see :func:`lit_rlhf.ops.noise.counter_key`."""


def describe_completions(
    request: RolloutRequest, sampled: SampledResponses, encoder: TextEncoder
) -> Completions:
    """The sampled responses as rewards read them."""
    names = sorted({name for row in request.rows for name in row.columns})
    return Completions(
        prompts=[row.prompt for row in request.rows],
        texts=[encoder.decode(ids) for ids in sampled.response_ids],
        prompt_ids=request.prompt_ids,
        response_ids=sampled.response_ids,
        finished=[not cut for cut in sampled.truncated.tolist()],
        prompt_names=[
            row.id or row.place or f"number {prompt}"
            for row, prompt in zip(request.rows, request.prompt_index.tolist(), strict=True)
        ],
        columns={name: [row.columns.get(name) for row in request.rows] for name in names},
    )


def collect_rollout(
    network: ActorCritic,
    reference: Reference,
    score: Callable[[Completions], Tensor],
    gold_score: Callable[[Completions], Tensor] | None,
    request: RolloutRequest,
    settings: SamplingSettings,
    encoder: TextEncoder,
    batch_size: int,
    device: torch.device | str,
    recompute: bool,
    progress: Callable[[int, int], None] | None = None,
    from_reference: bool = False,
) -> Experience:
    """This rank's responses with everything but shaped scores, rewards and advantages, which need all ranks.

    Args:
        network: policy and critic, an :class:`ActorCritic`.
        reference: the frozen policy that the KL is measured against.
        score: completions to scores ``[N]``, NaN where the reward failed.
        gold_score: the same of the gold reward, if there is one.
        request: what to draw.
        settings: how to draw; log-probabilities are taken at the same temperature.
        encoder: decodes responses for the reward.
        batch_size: responses in one forward of the networks.
        device: where the networks are.
        recompute: whether old log-probabilities are computed anew in any case; see :func:`look_at`.
        progress: told how many responses are finished, of how many.
        from_reference: whether the reference draws the responses, and not the policy. Old log-probabilities are then
            the reference's own too: what the policy would say of them is not asked.
    """

    def drawing() -> AbstractContextManager[Any]:
        return reference.drawing(network) if from_reference else nullcontext(network)

    with drawing() as drawn_from:
        sampled = sample_responses(
            drawn_from,
            request.prompt_ids,
            settings,
            request.keys,
            encoder.eos_token_id,
            device,
            progress=progress,
            with_entropy=True,
        )
    completions = describe_completions(request, sampled, encoder)
    with _failing_together(is_sharded(network)), _fp32_default():
        scores = score(completions)
    gold_scores = torch.full_like(scores, torch.nan)
    if gold_score is not None:
        with _failing_together(is_sharded(network)), _fp32_default():
            gold_scores = gold_score(completions)
    failed = scores.isnan()
    with drawing() as drawn_from:  # not around the rewards, of which one may be another adapter of the policy
        looks = look_at(
            drawn_from,
            None if from_reference else reference,
            request.prompt_ids,
            sampled,
            settings.temperature,
            batch_size,
            device,
            recompute or not settings.is_plain,
        )
    mask = torch.arange(sampled.logprobs.shape[1])[None, :] < torch.tensor(
        [[len(ids)] for ids in sampled.response_ids]
    )
    zeros = torch.zeros_like(looks.values)
    return Experience(
        prompt_ids=request.prompt_ids,
        response_ids=sampled.response_ids,
        prompt_names=completions.prompt_names,
        prompt_index=request.prompt_index,
        response_mask=mask,
        sampled_logprobs=sampled.logprobs.cpu().masked_fill(~mask, 0),
        old_logprobs=looks.old_logprobs,
        recomputed_logprobs=looks.recomputed_logprobs,
        reference_logprobs=looks.reference_logprobs,
        values=looks.values,
        entropy=sampled.entropy.cpu(),  # type: ignore[union-attr]  # it was asked for
        scores=scores.nan_to_num(0.0),
        shaped_scores=scores.nan_to_num(0.0),
        gold_scores=gold_scores,
        failed=failed,
        ranks=torch.full_like(gold_scores, torch.nan),
        weights=torch.ones_like(gold_scores),
        rewards=zeros,
        advantages=zeros,
        returns=zeros,
        truncated=sampled.truncated.cpu(),
    )


@contextmanager
def _failing_together(sharded: bool) -> Iterator[None]:
    """Where ranks share out the weights, one whose reward failed must not leave the others waiting in a forward."""
    own: RewardError | None = None
    try:
        yield
    except RewardError as error:
        own = error
    if sharded:
        errors: list[RewardError | None] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(errors, own)
        own = own or next((error for error in errors if error is not None), None)
    if own is not None:
        raise own


@contextmanager
def _fp32_default() -> Iterator[None]:
    """Rewards make their own tensors, which a trainer in bf16-true or 64-true would give its own precision."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)
