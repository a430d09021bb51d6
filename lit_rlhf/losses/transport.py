"""Alignment by optimal transport: distributions of log-ratios are ordered, not the responses of each pair.

The k-th smallest of one side of the batch is compared with the k-th smallest of the other. So the losses
depend on the batch, belong to quantiles and not to comparisons, and have no place for a comparison's target,
weight or margin: only their plain mean means something, and a batch cut in parts is another loss.
"""

from __future__ import annotations

from torch import Tensor

from lit_rlhf.losses.preference import implicit_reward
from lit_rlhf.losses.reward import bradley_terry_loss
from lit_rlhf.losses.targets import smoothed_target
from lit_rlhf.ops.shapes import check_same_shape


def aot_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    reference_better_logprobs: Tensor,
    reference_worse_logprobs: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Alignment via optimal transport of pairs: the policy's gaps are to dominate the reference's.

    -(1-ε)·log σ(βh_k) - ε·log σ(-βh_k), with h_k = g_(k) - g_ref,(k), g = log π(y_w|x) - log π(y_l|x), and x_(k)
    the k-th smallest of the batch.

    As in the source, with TRL's smoothing. One pair alone is DPO.

    Helps when the batch is large and an advantage over all pairs matters more than any one of them.

    Args:
        policy_better_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        reference_better_logprobs: log π_ref(y_w|x). Shape ``[C]``.
        reference_worse_logprobs: log π_ref(y_l|x). Shape ``[C]``.
        beta: β, reward per nat.
        label_smoothing: ε in [0, 1/2).

    Returns:
        Losses in nats, unreduced, ``[C]``, of the quantiles from the lowest; log 2 where the policy is the
        reference. Gradient flows to the policy's log-probabilities, and to the reference's where they carry one.

    Raises:
        ValueError: different shapes, or `label_smoothing` outside [0, 1/2).

    Source:
        Melnyk et al. 2024, arXiv 2406.05882 (AOT, paired).

    Example:
        >>> import torch
        >>> zero, gaps = torch.zeros(2), torch.tensor([9.0, 3.0]).log()
        >>> aot_loss(gaps, zero, gaps.flip(0) / 2, zero, beta=1.0).neg().exp()  # log 3 - log 3 / 2, log 9 - log 9 / 2
        tensor([0.6340, 0.7500])
    """
    check_same_shape(
        policy_better_logprobs=policy_better_logprobs,
        policy_worse_logprobs=policy_worse_logprobs,
        reference_better_logprobs=reference_better_logprobs,
        reference_worse_logprobs=reference_worse_logprobs,
    )
    policy_gaps = (policy_better_logprobs - policy_worse_logprobs).sort().values
    reference_gaps = (reference_better_logprobs - reference_worse_logprobs).sort().values
    target = smoothed_target(1.0, label_smoothing)
    return bradley_terry_loss(beta * policy_gaps, beta * reference_gaps, target)


def aot_unpaired_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    reference_better_logprobs: Tensor,
    reference_worse_logprobs: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Alignment via optimal transport without pairs: good responses are to dominate bad ones.

    -(1-ε)·log σ(βh_k) - ε·log σ(-βh_k), with h_k = (log π(y_w)/π_ref(y_w))_(k) - (log π(y_l)/π_ref(y_l))_(k).

    As in the source, with TRL's smoothing. As many good ones as bad ones are asked for; whose they are does not
    matter, so that the good and the bad may come from different prompts.

    Helps when good and bad responses are not of the same prompts, and the batch is large.

    Args:
        policy_better_logprobs: log π of good responses, summed. Shape ``[C]``.
        policy_worse_logprobs: log π of bad responses. Shape ``[C]``.
        reference_better_logprobs: log π_ref of the good ones. Shape ``[C]``.
        reference_worse_logprobs: log π_ref of the bad ones. Shape ``[C]``.
        beta: β, reward per nat.
        label_smoothing: ε in [0, 1/2).

    Returns:
        Losses as in :func:`aot_loss`, ``[C]``.

    Raises:
        ValueError: different shapes, or `label_smoothing` outside [0, 1/2).

    Source:
        Melnyk et al. 2024, arXiv 2406.05882 (AOT, unpaired).

    Example:
        >>> import torch
        >>> zero, ratios = torch.zeros(2), torch.tensor([9.0, 3.0]).log()
        >>> aot_unpaired_loss(ratios, ratios.flip(0) / 2, zero, zero, beta=1.0).neg().exp()
        tensor([0.6340, 0.7500])
    """
    good = implicit_reward(policy_better_logprobs, reference_better_logprobs, beta).sort().values
    bad = implicit_reward(policy_worse_logprobs, reference_worse_logprobs, beta).sort().values
    return bradley_terry_loss(good, bad, smoothed_target(1.0, label_smoothing))
