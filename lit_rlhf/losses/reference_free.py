"""Methods without a reference: the policy's own log-probabilities are the reward.

Nothing holds the policy near where it started but the few steps that it takes, and where there is one the
likelihood term on the better response. One forward in the place of two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_rlhf.losses.lengths import per_token_logprobs, sft_term
from lit_rlhf.losses.reward import bradley_terry_loss
from lit_rlhf.losses.targets import loss_under_target, smoothed_target
from lit_rlhf.ops.shapes import check_same_shape


def simpo_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    better_lengths: Tensor,
    worse_lengths: Tensor,
    beta: float,
    margin: Tensor | float,
    target: Tensor | float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Simple preference optimisation: log-probability per token is the reward, with a margin to win by.

    -p·log σ(d) - (1-p)·log σ(-d), with d = β/|y_w|·log π(y_w|x) - β/|y_l|·log π(y_l|x) - γ.

    With p = 1 and one γ as in the source; a tensor gives each comparison its own.

    Helps when memory or time for a reference is short, or DPO makes answers longer. It is sensitive to the
    learning rate, β and γ, and forgets what is not in the pairs faster than DPO.

    Args:
        policy_better_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        better_lengths: |y_w|, counted tokens. Shape ``[C]``, long.
        worse_lengths: |y_l|. Shape ``[C]``, long.
        beta: β, reward per nat and token; 2 to 10.
        margin: γ, in units of the reward; γ/β around 0.5. Shape ``[C]``, or one number.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.
        label_smoothing: ε in [0, 1/2), the share of comparisons believed to be the wrong way round.

    Returns:
        Losses in nats, unreduced, ``[C]``. Gradient flows to both log-probabilities.

    Raises:
        ValueError: different shapes, a number `target` outside [0, 1], or `label_smoothing` outside [0, 1/2).

    Source:
        Meng et al. 2024, arXiv 2405.14734, eq. 6.

    Example:
        >>> lengths = torch.tensor([2])
        >>> loss = simpo_loss(torch.tensor([9.0]).log(), torch.zeros(1), lengths, lengths, beta=1.0, margin=0.0)
        >>> loss.neg().exp()  # σ(log 9 / 2) = 3/4
        tensor([0.7500])
    """
    return bradley_terry_loss(
        beta * per_token_logprobs(policy_better_logprobs, better_lengths),
        beta * per_token_logprobs(policy_worse_logprobs, worse_lengths),
        target=smoothed_target(target, label_smoothing),
        margin=margin,
    )


def cpo_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    beta: float,
    target: Tensor | float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Contrastive preference optimisation, its preference part: DPO whose reference is uniform.

    -p·log σ(d) - (1-p)·log σ(-d), with d = β·[log π(y_w|x) - log π(y_l|x)].

    With p = 1 as in the source, whose objective is this plus the likelihood of y_w
    (:func:`~lit_rlhf.losses.lengths.sft_term`, there unnormalised, with weight 1).

    Helps when there is no reference to be had, and with the likelihood term only: by itself it favours short
    responses, whose sums are larger, and has nothing to come back to.

    Args:
        policy_better_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        beta: β, reward per nat; around 0.1.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.
        label_smoothing: ε in [0, 1/2), the share of comparisons believed to be the wrong way round.

    Returns:
        Losses in nats, unreduced, ``[C]``. Gradient flows to both log-probabilities.

    Raises:
        ValueError: different shapes, a number `target` outside [0, 1], or `label_smoothing` outside [0, 1/2).

    Source:
        Xu et al. 2024, arXiv 2401.08417, section 3.2, eq. 3; with the likelihood eq. 5.

    Example:
        >>> cpo_loss(torch.tensor([3.0]).log(), torch.zeros(1), beta=1.0).neg().exp()
        tensor([0.7500])
    """
    return bradley_terry_loss(
        beta * policy_better_logprobs,
        beta * policy_worse_logprobs,
        target=smoothed_target(target, label_smoothing),
    )


def slic_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    margin: Tensor | float,
    target: Tensor | float = 1.0,
) -> Tensor:
    """Sequence likelihood calibration: the better response is to be likelier by a margin, and no more.

    p·max(0, δ - d) + (1-p)·max(0, δ + d), with d = log π(y_w|x) - log π(y_l|x).

    With p = 1 as in the source, whose objective adds a likelihood term
    (:func:`~lit_rlhf.losses.lengths.sft_term`). TRL's CPO ``hinge`` is β times this, at δ = 1/β.

    Helps when only the order of likelihoods matters and clear pairs should be left alone.

    Args:
        policy_better_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        margin: δ > 0, in nats. Shape ``[C]``, or one number.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.

    Returns:
        Losses in nats, unreduced, ``[C]``. Gradient flows to both log-probabilities.

    Raises:
        ValueError: tensors of different shapes, or a number `target` outside [0, 1].

    Source:
        Zhao et al. 2023, arXiv 2305.10425 (SLiC-HF), section 2.

    Example:
        >>> slic_loss(torch.tensor([-1.0, -1.0]), torch.tensor([-2.0, -9.0]), margin=3.0)
        tensor([2., 0.])
    """
    check_same_shape(
        policy_better_logprobs=policy_better_logprobs, policy_worse_logprobs=policy_worse_logprobs
    )
    if isinstance(margin, Tensor):
        check_same_shape(policy_better_logprobs=policy_better_logprobs, margin=margin)
    difference = policy_better_logprobs - policy_worse_logprobs
    return loss_under_target((margin - difference).relu(), (margin + difference).relu(), target)


def odds_ratio_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    better_lengths: Tensor,
    worse_lengths: Tensor,
    target: Tensor | float = 1.0,
) -> Tensor:
    """The preference part of ORPO: the Bradley-Terry loss of log-odds.

    -p·log σ(d) - (1-p)·log σ(-d), with d = log odds(y_w) - log odds(y_l), odds = P/(1-P), log P = log π(y)/|y|.

    With p = 1 as in the source; TRL's ``odds_ratio_loss`` is -λ times this. 1 - P is computed without
    cancellation, and P is held to one rounding error below 1, where the odds would be infinite.

    Helps as part of :func:`orpo_loss`.

    Args:
        policy_better_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        better_lengths: |y_w|, counted tokens. Shape ``[C]``, long.
        worse_lengths: |y_l|. Shape ``[C]``, long.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.

    Returns:
        Losses in nats, unreduced, ``[C]``. Gradient flows to both log-probabilities.

    Raises:
        ValueError: different shapes, or a number `target` outside [0, 1].

    Source:
        Hong et al. 2024, arXiv 2403.07691, section 4.2, eq. 7.

    Example:
        >>> better, worse, length = torch.tensor([0.75]).log(), torch.tensor([0.5]).log(), torch.tensor([1])
        >>> odds_ratio_loss(better, worse, length, length).neg().exp()  # odds 3 and 1
        tensor([0.7500])
    """
    better = _log_odds(per_token_logprobs(policy_better_logprobs, better_lengths))
    worse = _log_odds(per_token_logprobs(policy_worse_logprobs, worse_lengths))
    return bradley_terry_loss(better, worse, target)


def orpo_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    better_lengths: Tensor,
    worse_lengths: Tensor,
    odds_coef: float,
    target: Tensor | float = 1.0,
) -> Tensor:
    """Odds ratio preference optimisation: fine-tuning on the better response and a preference, in one.

    -log π(y_w|x)/|y_w| + λ·L_OR, with L_OR the loss of :func:`odds_ratio_loss`.

    With p = 1 as in the source. Where p < 1 the likelihood of each side counts by its share, so that a tie is
    no reason to imitate one of the two.

    Helps when one starts from a pretrained model and has comparisons alone: one phase in the place of two.
    It learns as much from imitating y_w as from the comparison, so poor winners are learned too.

    Args:
        policy_better_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        better_lengths: |y_w|, counted tokens. Shape ``[C]``, long.
        worse_lengths: |y_l|. Shape ``[C]``, long.
        odds_coef: λ, dimensionless; 0.1 to 0.25.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.

    Returns:
        Losses in nats (per token, and of the comparison), unreduced, ``[C]``. Gradient flows to both.

    Raises:
        ValueError: different shapes, or a number `target` outside [0, 1].

    Source:
        Hong et al. 2024, arXiv 2403.07691, section 4.2, eq. 6.
    """
    likelihood = loss_under_target(
        sft_term(policy_better_logprobs, better_lengths),
        sft_term(policy_worse_logprobs, worse_lengths),
        target,
    )
    odds = odds_ratio_loss(
        policy_better_logprobs, policy_worse_logprobs, better_lengths, worse_lengths, target
    )
    return likelihood + odds_coef * odds


def _log_odds(logprobs: Tensor) -> Tensor:
    """log P - log(1-P). Its slope 1/(1-P) reaches the policy also where P is held."""
    excess = (logprobs + torch.finfo(logprobs.dtype).eps).clamp(min=0)
    held = logprobs - excess.detach()
    return held - (-held.expm1()).log()
