"""Direct preference optimisation and its closest kin: the Bradley-Terry loss of implicit rewards.

Log-probabilities here, and in the other files of direct methods, are those of whole responses: sums over
their counted tokens, shape ``[C]``. y_w is the better response of a comparison, y_l the worse. Without a
reference (all its log-probabilities 0) the implicit reward is β·log π.
"""

from __future__ import annotations

from torch import Tensor

from lit_rlhf.losses.divergences import Divergence, reverse_kl
from lit_rlhf.losses.rankings import Ties, plackett_luce_loss
from lit_rlhf.losses.reward import bradley_terry_loss, robust_bradley_terry_loss
from lit_rlhf.losses.targets import smoothed_target
from lit_rlhf.ops.shapes import check_same_shape


def implicit_reward(
    policy_logprobs: Tensor, reference_logprobs: Tensor, beta: float, divergence: Divergence = reverse_kl
) -> Tensor:
    """The reward for which the policy is optimal under its KL price, up to a constant of the prompt.

    r̂(x, y) = β·log π(y|x)/π_ref(y|x) = r(x, y) - β·log Z(x) at the optimum.

    Under the price of another divergence β·f'(π(y|x)/π_ref(y|x)), again up to a constant of the prompt.

    Args:
        policy_logprobs: log π(y|x), summed over the response. Any shape, such as ``[C]`` or ``[N]``.
        reference_logprobs: log π_ref(y|x). The same shape.
        beta: β, units of the reward per nat.
        divergence: f', one of :mod:`~lit_rlhf.losses.divergences`.

    Returns:
        Implicit rewards, the shape given; 0 where the policy is the reference. Gradient flows to both
        arguments.

    Raises:
        ValueError: the shapes differ.

    Source:
        Rafailov et al. 2023, arXiv 2305.18290, eq. 5; other divergences: Wang et al. 2023, arXiv 2309.16240.

    Example:
        >>> import torch
        >>> implicit_reward(torch.tensor([-2.0]), torch.tensor([-5.0]), beta=0.5)
        tensor([1.5000])
    """
    check_same_shape(policy_logprobs=policy_logprobs, reference_logprobs=reference_logprobs)
    return beta * divergence(policy_logprobs - reference_logprobs)


def pair_rewards(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    reference_better_logprobs: Tensor,
    reference_worse_logprobs: Tensor,
    beta: float,
    divergence: Divergence = reverse_kl,
) -> tuple[Tensor, Tensor]:
    """Implicit rewards of the two sides of each comparison: what all losses on pairs are functions of.

    Args:
        policy_better_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        reference_better_logprobs: log π_ref(y_w|x). Shape ``[C]``.
        reference_worse_logprobs: log π_ref(y_l|x). Shape ``[C]``.
        beta: β, units of the reward per nat; 1 gives the log-ratios.
        divergence: f', one of :mod:`~lit_rlhf.losses.divergences`.

    Returns:
        :func:`implicit_reward` of the better responses and of the worse, each ``[C]``.

    Raises:
        ValueError: the shapes differ.
    """
    better = implicit_reward(policy_better_logprobs, reference_better_logprobs, beta, divergence)
    worse = implicit_reward(policy_worse_logprobs, reference_worse_logprobs, beta, divergence)
    check_same_shape(better_rewards=better, worse_rewards=worse)
    return better, worse


def dpo_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    reference_better_logprobs: Tensor,
    reference_worse_logprobs: Tensor,
    beta: float,
    target: Tensor | float = 1.0,
    label_smoothing: float = 0.0,
    margin: Tensor | float = 0.0,
    divergence: Divergence = reverse_kl,
) -> Tensor:
    """Direct preference optimisation: the Bradley-Terry loss of the implicit rewards.

    -p·log σ(h) - (1-p)·log σ(-h), with h = r̂(x, y_w) - r̂(x, y_l) - m.

    With p = 1 and m = 0 as in the source. Smoothing ε moves p to (1-ε)·p + ε·(1-p), which for p = 1 is
    conservative DPO: it stops where σ(h) = 1-ε. A margin asks for h to be larger by what people said the
    response is better by.

    Helps when in doubt: the loss that the others are measured against. Where nobody ever contradicts a label,
    nothing but the number of steps keeps h finite, whatever β is; smoothing or IPO do.

    Args:
        policy_better_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        reference_better_logprobs: log π_ref(y_w|x). Shape ``[C]``.
        reference_worse_logprobs: log π_ref(y_l|x). Shape ``[C]``.
        beta: β, the KL price in units of the implicit reward per nat; around 0.1.
        target: p in [0, 1], the probability that `better` is better: 1/2 for a tie, or the share of votes.
            Shape ``[C]``, or one number.
        label_smoothing: ε in [0, 1/2), the share of comparisons believed to be the wrong way round.
        margin: m, by how much it should be better, in units of the implicit reward. Shape ``[C]``, or one number.
        divergence: the price that β is of, one of :mod:`~lit_rlhf.losses.divergences`.

    Returns:
        Losses in nats, unreduced, ``[C]``; log 2 where the policy is the reference and there is no margin.
        Gradient flows to the policy's log-probabilities, and to the reference's where they carry one.

    Raises:
        ValueError: different shapes, a number `target` outside [0, 1], or `label_smoothing` outside [0, 1/2).

    Source:
        Rafailov et al. 2023, arXiv 2305.18290, eq. 7; smoothing: Mitchell 2023, "A note on DPO with
        noisy preferences", https://ericmitchell.ai/cdpo.pdf, eq. 3; margin: Amini et al. 2024, arXiv
        2402.10571 (ODPO); divergences: Wang et al. 2023, arXiv 2309.16240.

    Example:
        >>> import torch
        >>> zero = torch.zeros(1)
        >>> dpo_loss(torch.tensor([3.0]).log(), zero, zero, zero, beta=1.0).neg().exp()  # σ(log 3) = 3/4
        tensor([0.7500])
    """
    better, worse = pair_rewards(
        policy_better_logprobs,
        policy_worse_logprobs,
        reference_better_logprobs,
        reference_worse_logprobs,
        beta,
        divergence,
    )
    return bradley_terry_loss(better, worse, smoothed_target(target, label_smoothing), margin)


def robust_dpo_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    reference_better_logprobs: Tensor,
    reference_worse_logprobs: Tensor,
    beta: float,
    flip_rate: float,
    target: Tensor | float = 1.0,
) -> Tensor:
    """DPO, corrected so that labels flipped at random leave its mean as it was (rDPO).

    [(1-ε)·L(p) - ε·L(1-p)] / (1-2ε), with L the loss of :func:`dpo_loss`.

    With p = 1 as in the source. Exactly unbiased where ε is right; see
    :func:`~lit_rlhf.losses.reward.robust_bradley_terry_loss` for its price. The source has no margin.

    Helps when the share of flipped labels is known, and the data are many: it pulls harder, not softer, than
    DPO, and is unbounded below, so a rate that is too high or too many epochs do more harm than smoothing.

    Args:
        policy_better_logprobs: log π(y_w|x), of the responses that are said to be better. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        reference_better_logprobs: log π_ref(y_w|x). Shape ``[C]``.
        reference_worse_logprobs: log π_ref(y_l|x). Shape ``[C]``.
        beta: β, reward per nat.
        flip_rate: ε in [0, 1/2), the share of comparisons believed to be the wrong way round.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.

    Returns:
        Losses in nats, unreduced, ``[C]``; may be negative, log 2 where the policy is the reference.
        Gradient as in :func:`dpo_loss`.

    Raises:
        ValueError: different shapes, a number `target` outside [0, 1], or `flip_rate` outside [0, 1/2).

    Source:
        Chowdhury et al. 2024, arXiv 2403.00409.

    Example:
        >>> import torch
        >>> zero, h = torch.zeros(1), torch.tensor([3.0]).log()
        >>> right = robust_dpo_loss(h, zero, zero, zero, beta=1.0, flip_rate=0.2)
        >>> wrong = robust_dpo_loss(zero, h, zero, zero, beta=1.0, flip_rate=0.2)
        >>> (0.8 * right + 0.2 * wrong).neg().exp()
        tensor([0.7500])
    """
    better, worse = pair_rewards(
        policy_better_logprobs,
        policy_worse_logprobs,
        reference_better_logprobs,
        reference_worse_logprobs,
        beta,
    )
    return robust_bradley_terry_loss(better, worse, flip_rate, target)


def plackett_luce_dpo_loss(
    policy_logprobs: Tensor,
    reference_logprobs: Tensor,
    ranks: Tensor,
    tree_index: Tensor,
    beta: float,
    ties: Ties,
) -> Tensor:
    """DPO on rankings: the Plackett-Luce loss of each prompt's implicit rewards.

    -Σ_k [r̂_k - log Σ_{j≥k} e^{r̂_j}], over the judged responses from the best to the worst.

    Without ties as in the source; with ties as :func:`~lit_rlhf.losses.rankings.plackett_luce_loss` says. Two
    responses give :func:`dpo_loss`. Votes and margins have no place in it: the order is all it takes.

    Helps when people ordered K > 2 responses: it takes each choice once, where all pairs count the same
    judgement several times.

    Args:
        policy_logprobs: log π(y|x), summed over the response. Shape ``[N]``.
        reference_logprobs: log π_ref(y|x). Shape ``[N]``.
        ranks: 1 = best, equal = tie, NaN = not judged; only their order counts. Shape ``[N]``.
        tree_index: the prompt of each response, in any order. Long ``[N]``.
        beta: β, reward per nat.
        ties: ``half`` or ``drop``.

    Returns:
        Losses in nats, unreduced, ``[B]``; log K! where the policy is the reference and nothing is tied.
        Gradient flows to the policy's log-probabilities, and to the reference's where they carry one.

    Raises:
        ValueError: different shapes, or a tie of too many.

    Source:
        Rafailov et al. 2023, arXiv 2305.18290, appendix A.3, eq. 20.

    Example:
        >>> import torch
        >>> policy, ranks = torch.tensor([3.0, 2.0, 1.0]).log(), torch.tensor([1.0, 2.0, 3.0])
        >>> tree = torch.zeros(3, dtype=torch.long)
        >>> plackett_luce_dpo_loss(policy, torch.zeros(3), ranks, tree, beta=1.0, ties="half").neg().exp()  # 3/6 · 2/3
        tensor([0.3333])
    """
    rewards = implicit_reward(policy_logprobs, reference_logprobs, beta)
    return plackett_luce_loss(rewards, ranks, tree_index, ties)
