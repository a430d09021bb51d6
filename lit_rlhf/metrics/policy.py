"""What PPO watches of its policy and its critic."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_rlhf.ops.kl import k3
from lit_rlhf.ops.masking import masked_mean, masked_variance
from lit_rlhf.ops.shapes import check_same_shape


def approximate_kl(policy_logprobs: Tensor, old_logprobs: Tensor, response_mask: Tensor) -> Tensor:
    """How far the policy has moved since the rollout, estimated from the rollout's tokens.

    Mean over counted tokens of (ρ - 1) - log ρ, with ρ = π/π_old: k3 of KL(π_old‖π).

    Args:
        policy_logprobs: log π of each token. Shape ``[N, R]``.
        old_logprobs: log π_old. Shape ``[N, R]``.
        response_mask: True = counted, bool. Shape ``[N, R]``.

    Returns:
        Nats per token, a scalar, not negative.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> logprobs, old, mask = torch.tensor([[2.0]]).log(), torch.zeros(1, 1), torch.tensor([[True]])
        >>> approximate_kl(logprobs, old, mask)  # 1 - log 2
        tensor(0.3069)
    """
    return masked_mean(k3(old_logprobs, policy_logprobs), response_mask)


def clip_fraction(
    policy_logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    clip_range: float,
    clip_range_high: float | None = None,
    dual_clip: float | None = None,
) -> Tensor:
    """Share of the counted tokens, or responses, whose gradient the clipped surrogate cuts off.

    ρ > 1 + ε' where A > 0, ρ < 1 - ε or ρ > c where A < 0. A ratio outside the range on the other side is
    still pulled back, so it does not count.

    Args:
        policy_logprobs: log π. Shape ``[N, R]``, or ``[N]`` for responses.
        old_logprobs: log π_old. The same shape.
        advantages: A. The same shape.
        response_mask: True = counted, bool. The same shape.
        clip_range: ε.
        clip_range_high: ε'; None = ε.
        dual_clip: c; None = no such bound.

    Returns:
        A scalar in [0, 1].

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> logprobs, old = torch.tensor([[1.5, 1.5]]).log(), torch.zeros(1, 2)
        >>> advantages, mask = torch.tensor([[1.0, -1.0]]), torch.tensor([[True, True]])
        >>> clip_fraction(logprobs, old, advantages, mask, clip_range=0.2)
        tensor(0.5000)
    """
    check_same_shape(policy_logprobs=policy_logprobs, old_logprobs=old_logprobs, advantages=advantages)
    ratio = (policy_logprobs - old_logprobs).exp()
    high = clip_range if clip_range_high is None else clip_range_high
    cut_off = ratio < 1 - clip_range
    if dual_clip is not None:
        cut_off = cut_off | (ratio > dual_clip)
    binds = ((advantages > 0) & (ratio > 1 + high)) | ((advantages < 0) & cut_off)
    return masked_mean(binds.to(ratio.dtype), response_mask)


def value_clip_fraction(
    values: Tensor, old_values: Tensor, returns: Tensor, response_mask: Tensor, clip_range: float | None
) -> Tensor:
    """Share of the counted tokens where the value loss takes the clipped error.

    |V - V_old| > ε, and the clipped value is further from the return than V itself.

    Args:
        values: V. Shape ``[N, R]``.
        old_values: V_old. Shape ``[N, R]``.
        returns: R. Shape ``[N, R]``.
        response_mask: True = counted, bool. Shape ``[N, R]``.
        clip_range: ε; None, no clipping, gives 0.

    Returns:
        A scalar in [0, 1].

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> values, old, returns = torch.tensor([[1.0, 1.0]]), torch.zeros(1, 2), torch.tensor([[1.0, -1.0]])
        >>> value_clip_fraction(values, old, returns, torch.tensor([[True, True]]), clip_range=0.2)
        tensor(0.5000)
    """
    check_same_shape(values=values, old_values=old_values, returns=returns)
    if clip_range is None:
        return masked_mean(torch.zeros_like(values), response_mask)
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    outside = (values - old_values).abs() > clip_range
    binds = outside & ((clipped - returns).abs() > (values - returns).abs())
    return masked_mean(binds.to(values.dtype), response_mask)


def explained_variance(values: Tensor, returns: Tensor, response_mask: Tensor) -> Tensor:
    """Share of the returns' variance that the values account for.

    1 - Var(R - V) / Var(R), over counted tokens.

    Args:
        values: V. Shape ``[N, R]``.
        returns: R. Shape ``[N, R]``.
        response_mask: True = counted, bool. Shape ``[N, R]``.

    Returns:
        A scalar, 1 for a perfect critic, 0 for a constant one, below 0 for a worse one; 0 where the
        returns do not vary.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> returns, mask = torch.tensor([[0.0, 2.0]]), torch.tensor([[True, True]])
        >>> explained_variance(torch.tensor([[5.0, 6.0]]), returns, mask)
        tensor(0.7500)
    """
    check_same_shape(values=values, returns=returns)
    variance = masked_variance(returns, response_mask)
    share = 1 - masked_variance(returns - values, response_mask) / variance
    return torch.where(variance > 0, share, torch.zeros_like(share))
