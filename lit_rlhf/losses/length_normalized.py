"""DPO and IPO on log-ratios per token: the same functions, of means instead of sums.

A response's log-probability and its reference's are divided by its own count of tokens first. What is then
learned is no optimum of a KL price: the implicit reward is not r up to a constant.
"""

from __future__ import annotations

from torch import Tensor

from lit_rlhf.losses.differences import ipo_loss
from lit_rlhf.losses.lengths import per_token_logprobs
from lit_rlhf.losses.preference import dpo_loss


def length_normalized_dpo_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    reference_better_logprobs: Tensor,
    reference_worse_logprobs: Tensor,
    better_lengths: Tensor,
    worse_lengths: Tensor,
    beta: float,
    target: Tensor | float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """DPO on log-ratios per token, in which length earns nothing by itself.

    -p·log σ(h) - (1-p)·log σ(-h), with h = β/|y_w|·log π(y_w)/π_ref(y_w) - β/|y_l|·log π(y_l)/π_ref(y_l).

    With p = 1 as in the source; TRL's ``sigmoid_norm``. A log-ratio per token is smaller than one per response
    by its length, so β is larger by as much: a β of DPO does not carry over.

    Helps when responses differ much in length and DPO answers with longer ones.

    Args:
        policy_better_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        reference_better_logprobs: log π_ref(y_w|x). Shape ``[C]``.
        reference_worse_logprobs: log π_ref(y_l|x). Shape ``[C]``.
        better_lengths: |y_w|, counted tokens. Shape ``[C]``, long.
        worse_lengths: |y_l|. Shape ``[C]``, long.
        beta: β, reward per nat and token; 5 in the source.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.
        label_smoothing: ε in [0, 1/2), the share of comparisons believed to be the wrong way round.

    Returns:
        Losses in nats, unreduced, ``[C]``; log 2 where the policy is the reference. Gradient as in
        :func:`~lit_rlhf.losses.preference.dpo_loss`.

    Raises:
        ValueError: different shapes, a number `target` outside [0, 1], or `label_smoothing` outside [0, 1/2).

    Source:
        Lambert et al. 2024, arXiv 2411.15124 (Tülu 3), eq. 6.

    Example:
        >>> import torch
        >>> zero, lengths = torch.zeros(1), torch.tensor([2])
        >>> loss = length_normalized_dpo_loss(torch.tensor([9.0]).log(), zero, zero, zero, lengths, lengths, beta=1.0)
        >>> loss.neg().exp()  # σ(log 9 / 2) = 3/4
        tensor([0.7500])
    """
    return dpo_loss(
        per_token_logprobs(policy_better_logprobs, better_lengths),
        per_token_logprobs(policy_worse_logprobs, worse_lengths),
        per_token_logprobs(reference_better_logprobs, better_lengths),
        per_token_logprobs(reference_worse_logprobs, worse_lengths),
        beta,
        target,
        label_smoothing,
    )


def length_normalized_ipo_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    reference_better_logprobs: Tensor,
    reference_worse_logprobs: Tensor,
    better_lengths: Tensor,
    worse_lengths: Tensor,
    beta: float,
    target: Tensor | float = 1.0,
) -> Tensor:
    """IPO on log-ratios per token: what TRL computes under the name ``ipo``.

    p·(h - 1/(2τ))² + (1-p)·(h + 1/(2τ))², with h = log π(y_w)/π_ref(y_w) / |y_w| - log π(y_l)/π_ref(y_l) / |y_l|.

    Departs from the paper's equation, which sums; its authors told TRL that their results are of this form.

    Helps when responses differ in length, where the sums let the longer one move h alone; the place is 1/(2τ)
    nats *per token*, far away for the τ of the summed form.

    Args:
        policy_better_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        reference_better_logprobs: log π_ref(y_w|x). Shape ``[C]``.
        reference_worse_logprobs: log π_ref(y_l|x). Shape ``[C]``.
        better_lengths: |y_w|, counted tokens. Shape ``[C]``, long.
        worse_lengths: |y_l|. Shape ``[C]``, long.
        beta: τ, per nat per token.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.

    Returns:
        Losses in (nats per token)², unreduced, ``[C]``. Gradient as in :func:`~lit_rlhf.losses.preference.dpo_loss`.

    Raises:
        ValueError: different shapes, or a number `target` outside [0, 1].

    Source:
        ``DPOTrainer`` of TRL 1.16.0, ``loss_type: ipo``.

    Example:
        >>> import torch
        >>> zero, lengths = torch.zeros(1), torch.tensor([2])
        >>> length_normalized_ipo_loss(torch.tensor([4.0]), zero, zero, zero, lengths, lengths, beta=0.125)
        tensor([4.])
    """
    return ipo_loss(
        per_token_logprobs(policy_better_logprobs, better_lengths),
        per_token_logprobs(policy_worse_logprobs, worse_lengths),
        per_token_logprobs(reference_better_logprobs, better_lengths),
        per_token_logprobs(reference_worse_logprobs, worse_lengths),
        beta,
        target,
    )
