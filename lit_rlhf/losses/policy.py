"""Proximal policy optimisation: the clipped surrogate and the clipped value loss, token by token.

Both are unreduced: the mean over counted tokens is taken elsewhere, over the whole optimizer batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_rlhf.ops.shapes import check_same_shape

_LARGEST_LOG_RATIO = 20.0
"""e²⁰ is far outside any clip range, and still finite in every float dtype it is computed in."""


def clipped_policy_loss(
    policy_logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_range: float
) -> Tensor:
    """The clipped surrogate objective of each token, negated.

    max(-A·ρ, -A·clip(ρ, 1-ε, 1+ε)), with ρ = π(y_t)/π_old(y_t).

    As in the source, with the sign of a loss; the log-ratio is held within ±20, so that ρ stays finite.

    Args:
        policy_logprobs: log π of each token under the policy being trained. Shape ``[N, R]``.
        old_logprobs: log π_old, under the policy that drew it. Shape ``[N, R]``.
        advantages: A, as they come from the rollout. Shape ``[N, R]``.
        clip_range: ε > 0, how far the ratio may move before it stops paying; 0.2 is usual.

    Returns:
        Losses, unreduced, ``[N, R]``; 0 where the advantage is. Gradient flows to `policy_logprobs`
        alone: the others are held constant.

    Raises:
        ValueError: the shapes differ, or `clip_range` is not positive.

    Source:
        Schulman et al. 2017, arXiv 1707.06347, eq. 7.

    Example:
        >>> ratio, advantages = torch.tensor([1.5, 1.5, 0.5]), torch.tensor([1.0, -1.0, 1.0])
        >>> clipped_policy_loss(ratio.log(), torch.zeros(3), advantages, clip_range=0.2)
        tensor([-1.2000,  1.5000, -0.5000])
    """
    check_same_shape(policy_logprobs=policy_logprobs, old_logprobs=old_logprobs, advantages=advantages)
    if clip_range <= 0:
        raise ValueError(f"expected clip_range above 0, found {clip_range}")
    advantages = advantages.detach()
    log_ratio = policy_logprobs - old_logprobs.detach()
    ratio = log_ratio.clamp(-_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO).exp()
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range))


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float | None
) -> Tensor:
    """Half the squared error of each value, the worse of the plain and the clipped one.

    max((V - R)², (V_old + clip(V - V_old, -ε, ε) - R)²) / 2.

    Args:
        values: V, from the critic being trained. Shape ``[N, R]``.
        old_values: V_old, from the critic at the time of the rollout. Shape ``[N, R]``.
        returns: R, in the scale of the rewards. Shape ``[N, R]``.
        clip_range: ε > 0, in units of the returns: with returns of scale 5 a range of 0.2 all but
            stops the critic. None leaves the plain squared error.

    Returns:
        Losses, unreduced, ``[N, R]``. Gradient flows to `values` alone: the others are held constant.

    Raises:
        ValueError: the shapes differ, or `clip_range` is not positive.

    Source:
        ``ppo2/model.py`` of openai/baselines, with the factor 1/2 of openai/lm-human-preferences;
        it has no equation in arXiv 1707.06347.

    Example:
        >>> values, old_values, returns = torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([1.0])
        >>> clipped_value_loss(values, old_values, returns, clip_range=0.2)  # (0.2 - 1)² / 2
        tensor([0.3200])
        >>> clipped_value_loss(values, old_values, returns, clip_range=None)
        tensor([0.])
    """
    check_same_shape(values=values, old_values=old_values, returns=returns)
    old_values, returns = old_values.detach(), returns.detach()
    plain = (values - returns).square()
    if clip_range is None:
        return plain / 2
    if clip_range <= 0:
        raise ValueError(f"expected clip_range above 0, found {clip_range}")
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return torch.maximum(plain, (clipped - returns).square()) / 2
