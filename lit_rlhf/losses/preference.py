"""Direct methods: from comparisons to a policy in one step.

Log-probabilities here are those of whole responses: sums over their counted tokens, shape ``[C]``.
"""

from __future__ import annotations

from torch import Tensor

from lit_rlhf.losses.reward import bradley_terry_loss
from lit_rlhf.ops.shapes import check_same_shape


def implicit_reward(policy_logprobs: Tensor, reference_logprobs: Tensor, beta: float) -> Tensor:
    """The reward for which the policy is optimal under its KL price, up to a constant of the prompt.

    r̂(x, y) = β·log π(y|x)/π_ref(y|x) = r(x, y) - β·log Z(x) at the optimum.

    Args:
        policy_logprobs: log π(y|x), summed over the response. Any shape, such as ``[C]`` or ``[N]``.
        reference_logprobs: log π_ref(y|x). The same shape.
        beta: β, units of the reward per nat.

    Returns:
        Implicit rewards, the shape given. Gradient flows to both arguments.

    Raises:
        ValueError: the shapes differ.

    Source:
        Rafailov et al. 2023, arXiv 2305.18290, eq. 5.

    Example:
        >>> import torch
        >>> implicit_reward(torch.tensor([-2.0]), torch.tensor([-5.0]), beta=0.5)
        tensor([1.5000])
    """
    check_same_shape(policy_logprobs=policy_logprobs, reference_logprobs=reference_logprobs)
    return beta * (policy_logprobs - reference_logprobs)


def dpo_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    reference_better_logprobs: Tensor,
    reference_worse_logprobs: Tensor,
    beta: float,
    target: Tensor | float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Direct preference optimisation: the Bradley-Terry loss of the implicit rewards.

    -p·log σ(h) - (1-p)·log σ(-h), with h = r̂(x, y_w) - r̂(x, y_l).

    With p = 1 as in the source. Smoothing ε moves p to (1-ε)·p + ε·(1-p), which for p = 1 is
    conservative DPO.

    Args:
        policy_better_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        reference_better_logprobs: log π_ref(y_w|x). Shape ``[C]``.
        reference_worse_logprobs: log π_ref(y_l|x). Shape ``[C]``.
        beta: β, the KL price in units of the implicit reward per nat; around 0.1.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.
        label_smoothing: ε in [0, 1/2), the share of comparisons believed to be the wrong way round.

    Returns:
        Losses in nats, unreduced, ``[C]``; log 2 where the policy is the reference. Gradient flows to
        the policy's log-probabilities, and to the reference's where they carry one.

    Raises:
        ValueError: different shapes, a number `target` outside [0, 1], or `label_smoothing` outside [0, 1/2).

    Source:
        Rafailov et al. 2023, arXiv 2305.18290, eq. 7; smoothing: Mitchell 2023, "A note on DPO with
        noisy preferences", https://ericmitchell.ai/cdpo.pdf, eq. 3.

    Example:
        >>> import torch
        >>> zero = torch.zeros(1)
        >>> dpo_loss(torch.tensor([3.0]).log(), zero, zero, zero, beta=1.0).neg().exp()  # σ(log 3) = 3/4
        tensor([0.7500])
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"expected label_smoothing within [0, 0.5), found {label_smoothing}")
    smoothed = (1 - label_smoothing) * target + label_smoothing * (1 - target)
    return bradley_terry_loss(
        implicit_reward(policy_better_logprobs, reference_better_logprobs, beta),
        implicit_reward(policy_worse_logprobs, reference_worse_logprobs, beta),
        target=smoothed,
    )
