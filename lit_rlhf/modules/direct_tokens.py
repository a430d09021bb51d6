"""What direct methods make of single tokens: tails that count less (LD-DPO), and on-policy weights (WPO)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lit_rlhf.losses.lengths import length_desensitized_logprobs
from lit_rlhf.losses.weights import wpo_weights
from lit_rlhf.records import ResponseTrees


class Tokens(NamedTuple):
    """Grids ``[N, R]`` of a batch's responses, 0 where a token does not count."""

    policy: Tensor
    """log π of each token, with gradient."""
    reference: Tensor | None = None
    """log π_ref; None = no reference, or nobody asks for its tokens."""
    collision: Tensor | None = None
    """log Σ_v π(v)², in nats; None where nobody asks."""


def desensitized_pairs(
    tokens: Tokens, batch: ResponseTrees, better: Tensor, worse: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log π and log π_ref of the sides of comparisons, in which the longer one's tail counts α.

    The tail is what goes beyond the other response's length, so a response has another number in each comparison.

    Args:
        tokens: the policy's, and the reference's where there is one.
        batch: the responses.
        better: Long ``[C]``.
        worse: Long ``[C]``.
        alpha: α in [0, 1).

    Returns:
        log π of better and of worse, then log π_ref, each ``[C]``; the last two are 0 without a reference.
    """
    mask = batch.response_grid_mask()
    lengths = mask.sum(1)
    shared = torch.minimum(lengths[better], lengths[worse])

    def of(grid: Tensor, side: Tensor) -> Tensor:
        return length_desensitized_logprobs(grid[side], mask[side], shared, alpha)

    reference = torch.zeros_like(tokens.policy) if tokens.reference is None else tokens.reference
    return of(tokens.policy, better), of(tokens.policy, worse), of(reference, better), of(reference, worse)


def on_policy_weights(tokens: Tokens, batch: ResponseTrees, better: Tensor, worse: Tensor) -> Tensor:
    """w(y_w)·w(y_l) of comparisons, ``[C]`` without gradient: see :func:`~lit_rlhf.losses.weights.wpo_weights`.

    Args:
        tokens: the policy's, with their collisions.
        batch: the responses.
        better: Long ``[C]``.
        worse: Long ``[C]``.
    """
    assert tokens.collision is not None
    weights = wpo_weights(tokens.policy, tokens.collision, batch.response_grid_mask())
    return weights[better] * weights[worse]
