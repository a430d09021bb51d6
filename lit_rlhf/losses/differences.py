"""Other functions of the difference that DPO takes the logistic loss of.

h = [log π(y_w) - log π_ref(y_w)] - [log π(y_l) - log π_ref(y_l)], in nats. What differs is the pull at each h:
which pairs are done with, and how hard a pair that the policy gets wrong is taken. None of the sources has
a margin of the comparison's own.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from lit_rlhf.losses.preference import pair_rewards
from lit_rlhf.losses.targets import check_target, loss_under_target, smoothed_target


def hinge_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    reference_better_logprobs: Tensor,
    reference_worse_logprobs: Tensor,
    beta: float,
    target: Tensor | float = 1.0,
) -> Tensor:
    """Hinge on the implicit rewards: nothing more is asked of a pair once it is 1/β nats apart.

    p·max(0, 1 - βh) + (1-p)·max(0, 1 + βh).

    With p = 1 as in the source. Without a reference it is the calibration loss of SLiC-HF, with its margin
    δ = 1/β and its loss times β. A tie (p = 1/2) is content with any |h| ≤ 1/β.

    Helps when clear pairs should be left alone; a wrong label costs its full pull however clear the others are.

    Args:
        policy_better_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        reference_better_logprobs: log π_ref(y_w|x). Shape ``[C]``.
        reference_worse_logprobs: log π_ref(y_l|x). Shape ``[C]``.
        beta: β, one over the nats of h that are enough; around 0.1.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.

    Returns:
        Losses, dimensionless, unreduced, ``[C]``; 1 where the policy is the reference. Gradient flows to the
        policy's log-probabilities, and to the reference's where they carry one.

    Raises:
        ValueError: different shapes, or a number `target` outside [0, 1].

    Source:
        Liu et al. 2023, arXiv 2309.06657 (RSO), section 3.1, eq. 10, "hinge-norm"; SLiC-HF: Zhao et al. 2023, arXiv
        2305.10425, section 2.

    Example:
        >>> import torch
        >>> zero = torch.zeros(2)
        >>> hinge_loss(torch.tensor([4.0, 20.0]), zero, zero, zero, beta=0.125)
        tensor([0.5000, 0.0000])
    """
    better, worse = pair_rewards(
        policy_better_logprobs,
        policy_worse_logprobs,
        reference_better_logprobs,
        reference_worse_logprobs,
        beta,
    )
    difference = better - worse
    return loss_under_target((1 - difference).relu(), (1 + difference).relu(), target)


def ipo_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    reference_better_logprobs: Tensor,
    reference_worse_logprobs: Tensor,
    beta: float,
    target: Tensor | float = 1.0,
) -> Tensor:
    """Identity preference optimisation: the difference is led to a finite place, and held there.

    p·(h - 1/(2τ))² + (1-p)·(h + 1/(2τ))², with τ = β and log-probabilities summed over responses.

    With p = 1 as in the source. The minimum is at h = (2p-1)/(2τ), so votes move it. For lengths see
    :func:`~lit_rlhf.losses.length_normalized.length_normalized_ipo_loss`.

    Helps when labels do not contradict one another (a program's, one annotator's), where DPO has no end; the
    place is the same for clear and unclear pairs and for short and long responses.

    Args:
        policy_better_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        reference_better_logprobs: log π_ref(y_w|x). Shape ``[C]``.
        reference_worse_logprobs: log π_ref(y_l|x). Shape ``[C]``.
        beta: τ of the source, per nat; at 0.1 a pair is to be 5 nats apart.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.

    Returns:
        Losses in nats², unreduced, ``[C]``; 1/(4τ²) where the policy is the reference, so that a learning rate
        of DPO does not carry over. Gradient as in :func:`~lit_rlhf.losses.preference.dpo_loss`.

    Raises:
        ValueError: different shapes, or a number `target` outside [0, 1].

    Source:
        Azar et al. 2023, arXiv 2310.12036, eq. 17.

    Example:
        >>> import torch
        >>> zero = torch.zeros(2)
        >>> ipo_loss(torch.tensor([0.0, 5.0]), zero, zero, zero, beta=0.125)  # (0 - 4)², (5 - 4)²
        tensor([16.,  1.])
    """
    better, worse = pair_rewards(
        policy_better_logprobs,
        policy_worse_logprobs,
        reference_better_logprobs,
        reference_worse_logprobs,
        1.0,
    )
    difference = better - worse
    place = 1 / (2 * beta)
    return loss_under_target((difference - place).square(), (difference + place).square(), target)


def exo_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    reference_better_logprobs: Tensor,
    reference_worse_logprobs: Tensor,
    beta: float,
    target: Tensor | float = 1.0,
    label_smoothing: float = 1e-3,
) -> Tensor:
    """Efficient exact optimisation: the KL from the policy's choice to the labels', not from theirs to its.

    q·log(q/p) + (1-q)·log((1-q)/(1-p)), with q = σ(βh) and p the target, smoothed to lie within [ε, 1-ε].

    As in the source, which has p = 1-ε; the soft target is its own. DPO is the cross-entropy, the KL the other
    way round.

    Helps when the policy should settle on what is surely better rather than cover all that might be, as the RL
    objective does. Far from the target its pull vanishes, so a pair that is badly wrong is given up.

    Args:
        policy_better_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        reference_better_logprobs: log π_ref(y_w|x). Shape ``[C]``.
        reference_worse_logprobs: log π_ref(y_l|x). Shape ``[C]``.
        beta: β, reward per nat.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.
        label_smoothing: ε in (0, 1/2); without it the KL to a certain label is infinite.

    Returns:
        Losses in nats, at least 0, unreduced, ``[C]``. Gradient as in :func:`~lit_rlhf.losses.preference.dpo_loss`.

    Raises:
        ValueError: different shapes, a number `target` outside [0, 1], or `label_smoothing` outside (0, 1/2).

    Source:
        Ji et al. 2024, arXiv 2402.00856, eq. 16.

    Example:
        >>> import torch
        >>> zero, h = torch.zeros(1), torch.tensor([3.0]).log()
        >>> exo_loss(h, zero, zero, zero, beta=1.0, label_smoothing=0.25)  # q = 3/4 = p
        tensor([0.])
    """
    if label_smoothing == 0:
        raise ValueError(
            "expected label_smoothing within (0, 0.5), found 0: a certain label is infinitely far"
        )
    better, worse = pair_rewards(
        policy_better_logprobs,
        policy_worse_logprobs,
        reference_better_logprobs,
        reference_worse_logprobs,
        beta,
    )
    difference = better - worse
    check_target(target, difference)
    label = difference.new_ones(()) * smoothed_target(target, label_smoothing)
    as_said = difference.sigmoid() * (logsigmoid(difference) - label.log())
    return as_said + (-difference).sigmoid() * (logsigmoid(-difference) - (-label).log1p())


def discopop_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    reference_better_logprobs: Tensor,
    reference_worse_logprobs: Tensor,
    beta: float,
    target: Tensor | float = 1.0,
    temperature: float = 0.05,
) -> Tensor:
    """The loss that a language model discovered: logistic for pairs that are wrong, exponential for right ones.

    (1 - σ(d/τ))·(-log σ(d)) + σ(d/τ)·e^{-d}, with d = βh; of the exchanged pair where p < 1.

    With p = 1 as in the source. e^{-d} and its weight are multiplied as logarithms, so nothing overflows.

    Helps when several losses are tried anyway: it did well on its own benchmarks. It is not convex: at d = 0,
    where training starts, it rises with d, so pairs that are undecided are first led the wrong way.

    Args:
        policy_better_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        reference_better_logprobs: log π_ref(y_w|x). Shape ``[C]``.
        reference_worse_logprobs: log π_ref(y_l|x). Shape ``[C]``.
        beta: β, reward per nat.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.
        temperature: τ in (0, 1), in units of d: how sharply the one gives way to the other.

    Returns:
        Losses, dimensionless, unreduced, ``[C]``; (1 + log 2)/2 where the policy is the reference. Gradient as
        in :func:`~lit_rlhf.losses.preference.dpo_loss`.

    Raises:
        ValueError: different shapes, a number `target` outside [0, 1], or `temperature` outside (0, 1).

    Source:
        Lu et al. 2024, arXiv 2406.08414, eq. 5 (log-ratio modulated loss).

    Example:
        >>> import torch
        >>> zero = torch.zeros(1)
        >>> discopop_loss(zero, zero, zero, zero, beta=0.1)
        tensor([0.8466])
    """
    if not 0 < temperature < 1:
        raise ValueError(f"expected temperature within (0, 1), found {temperature}")
    better, worse = pair_rewards(
        policy_better_logprobs,
        policy_worse_logprobs,
        reference_better_logprobs,
        reference_worse_logprobs,
        beta,
    )
    difference = better - worse
    return loss_under_target(
        _discovered(difference, temperature), _discovered(-difference, temperature), target
    )


def _discovered(difference: Tensor, temperature: float) -> Tensor:
    modulation = difference / temperature
    logistic = (-modulation).sigmoid() * -logsigmoid(difference)
    return logistic + (logsigmoid(modulation) - difference).exp()
