"""Prompts to sampled responses, with the log-probability of each token under the distribution it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lit_rlhf.models.actor_critic import ActorCritic
from lit_rlhf.models.modes import evaluating
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.ops.logprobs import token_entropy
from lit_rlhf.ops.noise import counted_uniform


@dataclass(frozen=True)
class SamplingSettings:
    """How responses are drawn."""

    max_new_tokens: int = 64
    """Response tokens at the most, the EOS included."""
    temperature: float = 1.0
    """Logits are divided by it; 0 takes the most likely token."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: expected at least 1, found {self.max_new_tokens}.")
        if self.temperature < 0:
            raise ValueError(f"temperature: expected 0 or more, found {self.temperature}.")


@dataclass
class SampledResponses:
    """N responses, in the order of the prompts given."""

    response_ids: list[list[int]]
    """With the EOS as the last where one was drawn."""
    logprobs: Tensor
    """Grid ``[N, R]``: of each token under the distribution it was drawn from."""
    entropy: Tensor
    """Grid ``[N, R]``: of that distribution, in nats."""
    truncated: Tensor
    """Bool ``[N]``: the limit came before an EOS."""


@torch.no_grad()  # not inference_mode: its tensors may not enter the update's graph
def sample_responses(
    network: PolicyNetwork | ActorCritic,
    prompts: list[list[int]],
    settings: SamplingSettings,
    keys: Tensor,
    eos_token_id: int,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> SampledResponses:
    """Draw one response to each prompt.

    A row leaves the batch once it has its EOS, so the longest response does not keep the others at work.

    Args:
        network: put into eval mode for the time, and restored.
        prompts: N lists of ids, each of at least one token.
        settings: how to draw.
        keys: Long ``[N]`` from :func:`counter_key`: one response's randomness, whatever shares its batch.
        eos_token_id: ends a response, and is part of it.
        device: where the network is.
        progress: told after each step how many responses are finished, of how many.
    """
    with evaluating(network):
        return _decode(
            network, prompts, settings, keys.to(device), eos_token_id, torch.device(device), progress
        )


def _decode(
    network: PolicyNetwork | ActorCritic,
    prompts: list[list[int]],
    settings: SamplingSettings,
    keys: Tensor,
    eos_token_id: int,
    device: torch.device,
    progress: Callable[[int, int], None] | None,
) -> SampledResponses:
    count, limit = len(prompts), settings.max_new_tokens
    tokens = torch.zeros(count, limit, dtype=torch.long, device=device)
    # fp32 whatever the trainer's precision makes of the default
    logprobs = torch.zeros(count, limit, device=device, dtype=torch.float32)
    entropy = torch.zeros_like(logprobs)
    lengths = torch.full((count,), limit, device=device)
    finished = torch.zeros(count, dtype=torch.bool, device=device)

    input_ids, mask = left_padded(prompts, device)
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    rows = torch.arange(count, device=device)  # which response each row of the batch is
    cache: Any = None
    for step in range(limit):
        logits, cache = network.next_token_logits(input_ids, mask, positions, cache)
        drawn, drawn_logprobs, drawn_entropy = draw(
            logits, settings.temperature, counted_uniform(keys[rows], step)
        )
        tokens[rows, step], logprobs[rows, step], entropy[rows, step] = drawn, drawn_logprobs, drawn_entropy
        ended = drawn == eos_token_id
        lengths[rows[ended]] = step + 1
        finished[rows[ended]] = True
        if bool(ended.any()):
            keep = torch.nonzero(~ended).squeeze(1)
            if len(keep) == 0:
                break
            rows, mask, positions, drawn = rows[keep], mask[keep], positions[keep], drawn[keep]
            cache.batch_select_indices(keep)
        if progress is not None:
            progress(count - len(rows), count)
        input_ids = drawn[:, None]
        positions = positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    if progress is not None:
        progress(count, count)
    width = int(lengths.max())
    response_ids = [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
    return SampledResponses(response_ids, logprobs[:, :width], entropy[:, :width], ~finished)


def draw(logits: Tensor, temperature: float, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One token a row by inverting the cumulative distribution, with its log-probability and the entropy.

    Args:
        logits: ``[N, V]``.
        temperature: 0 takes the most likely token; its log-probability is then that of the model at
            temperature 1, since a point mass has none.
        uniform: Double ``[N]`` in [0, 1).
    Returns:
        tokens Long ``[N]``, logprobs ``[N]``, entropy ``[N]``, the latter two fp32.
    """
    scale = temperature if temperature > 0 else 1.0
    distribution = torch.log_softmax(logits.float() / scale, dim=-1)
    if temperature > 0:
        cumulative = distribution.double().exp().cumsum(-1)
        # scaling by the last entry keeps a rounded total from leaving a gap behind the last token
        threshold = uniform[:, None] * cumulative[:, -1:]
        tokens = (
            torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)
        )
    else:
        tokens = distribution.argmax(-1)
    return tokens, distribution.gather(1, tokens[:, None]).squeeze(1), token_entropy(logits, scale).float()


def left_padded(prompts: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts with their ends aligned, Long ``[N, P]``, and the mask that tells them from the padding.

    Raises:
        ValueError: an empty prompt.
    """
    if not all(prompts):
        raise ValueError(
            f"Prompt {[len(p) for p in prompts].index(0)} is empty: nothing predicts its first token."
        )
    reversed_rows = [torch.tensor(prompt[::-1], device=device) for prompt in prompts]
    input_ids = pad_sequence(reversed_rows, batch_first=True).flip(1)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    width = input_ids.shape[1]
    return input_ids, torch.arange(width, device=device)[None, :] >= width - lengths[:, None]
