"""Anchored preference optimisation: the loss says whether the better responses are above the model or below it.

A comparison alone does not: a pair of two good responses and one of two bad ones look the same to DPO.
r̂ = β·[log π(y|x) - log π_ref(y|x)]. The source has no margin of the comparison's own.
"""

from __future__ import annotations

from torch import Tensor

from lit_rlhf.losses.preference import pair_rewards
from lit_rlhf.losses.targets import loss_under_target


def apo_zero_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    reference_better_logprobs: Tensor,
    reference_worse_logprobs: Tensor,
    beta: float,
    target: Tensor | float = 1.0,
) -> Tensor:
    """Anchored preference optimisation for winners better than the model: up with them, down with the losers.

    [1 - σ(r̂_w)] + σ(r̂_l); of the exchanged pair where p < 1.

    With p = 1 as in the source. It is KTO with its reference point at 0, on both responses.

    Helps when the better responses are above what the policy writes (a stronger model's, a person's).

    Args:
        policy_better_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        reference_better_logprobs: log π_ref(y_w|x). Shape ``[C]``.
        reference_worse_logprobs: log π_ref(y_l|x). Shape ``[C]``.
        beta: β, reward per nat.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.

    Returns:
        Losses within (0, 2), dimensionless, unreduced, ``[C]``; 1 where the policy is the reference. Gradient
        as in :func:`~lit_rlhf.losses.preference.dpo_loss`; it vanishes where |r̂| is large.

    Raises:
        ValueError: different shapes, or a number `target` outside [0, 1].

    Source:
        D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 7.

    Example:
        >>> import torch
        >>> zero, h = torch.zeros(1), torch.tensor([3.0]).log()
        >>> apo_zero_loss(h, -h, zero, zero, beta=1.0)  # 1/4 + 1/4
        tensor([0.5000])
    """
    better, worse = pair_rewards(
        policy_better_logprobs,
        policy_worse_logprobs,
        reference_better_logprobs,
        reference_worse_logprobs,
        beta,
    )
    as_said = (-better).sigmoid() + worse.sigmoid()
    return loss_under_target(as_said, (-worse).sigmoid() + better.sigmoid(), target)


def apo_down_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    reference_better_logprobs: Tensor,
    reference_worse_logprobs: Tensor,
    beta: float,
    target: Tensor | float = 1.0,
) -> Tensor:
    """Anchored preference optimisation for winners worse than the model: down with both, the losers further.

    σ(r̂_w) + [1 - σ(r̂_w - r̂_l)]; of the exchanged pair where p < 1.

    With p = 1 as in the source.

    Helps when even the better responses are below what the policy writes (a weaker model's, old data).

    Args:
        policy_better_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        reference_better_logprobs: log π_ref(y_w|x). Shape ``[C]``.
        reference_worse_logprobs: log π_ref(y_l|x). Shape ``[C]``.
        beta: β, reward per nat.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.

    Returns:
        Losses within (0, 2), dimensionless, unreduced, ``[C]``; 1 where the policy is the reference. Gradient
        as in :func:`~lit_rlhf.losses.preference.dpo_loss`; it vanishes where rewards are large.

    Raises:
        ValueError: different shapes, or a number `target` outside [0, 1].

    Source:
        D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 8.

    Example:
        >>> import torch
        >>> zero, h = torch.zeros(1), torch.tensor([3.0]).log()
        >>> apo_down_loss(zero, -h, zero, zero, beta=1.0)  # 1/2 + 1/4
        tensor([0.7500])
    """
    better, worse = pair_rewards(
        policy_better_logprobs,
        policy_worse_logprobs,
        reference_better_logprobs,
        reference_worse_logprobs,
        beta,
    )
    as_said = better.sigmoid() + (worse - better).sigmoid()
    return loss_under_target(as_said, worse.sigmoid() + (better - worse).sigmoid(), target)
