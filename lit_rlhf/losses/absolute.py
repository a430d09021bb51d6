"""Losses that say of each response of a pair where its own implicit reward should be.

DPO sees differences only: both responses may become less likely as long as the worse one falls faster. Here
0, the reward of a policy that is its reference, is a place of its own. ρ = log π(y|x) - log π_ref(y|x) in
nats, r̂ = βρ. None of the sources has a margin of the comparison's own.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from lit_rlhf.losses.preference import pair_rewards
from lit_rlhf.losses.targets import check_target, loss_under_target


def bco_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    reference_better_logprobs: Tensor,
    reference_worse_logprobs: Tensor,
    beta: float,
    target: Tensor | float = 1.0,
    shift: Tensor | float = 0.0,
) -> Tensor:
    """Binary classifier optimisation: better responses are told from worse ones by a threshold on r̂.

    -log σ(r̂_w - δ) - log σ(-(r̂_l - δ)); of the exchanged pair where p < 1.

    With p = 1 as in the source, where δ is the running mean of (r̂_w + r̂_l)/2. At δ = 0 it is TRL's ``bco_pair``.

    Helps when good and bad responses come from different prompts or at different rates, since it needs no
    pairs: within pairs it bounds DPO's loss from above, and DPO is the tighter.

    Args:
        policy_better_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        reference_better_logprobs: log π_ref(y_w|x). Shape ``[C]``.
        reference_worse_logprobs: log π_ref(y_l|x). Shape ``[C]``.
        beta: β, reward per nat.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.
        shift: δ, in units of r̂, held constant. A scalar.

    Returns:
        Losses in nats, unreduced, ``[C]``; 2·log 2 where the policy is the reference and δ = 0. Gradient flows
        to the policy's log-probabilities, and to the reference's where they carry one.

    Raises:
        ValueError: different shapes, or a number `target` outside [0, 1].

    Source:
        Jung et al. 2024, arXiv 2404.04656.

    Example:
        >>> import torch
        >>> zero, h = torch.zeros(1), torch.tensor([3.0]).log()
        >>> bco_loss(h, -h, zero, zero, beta=1.0).neg().exp()  # 3/4 · 3/4
        tensor([0.5625])
    """
    better, worse = pair_rewards(
        policy_better_logprobs,
        policy_worse_logprobs,
        reference_better_logprobs,
        reference_worse_logprobs,
        beta,
    )
    if isinstance(shift, Tensor):
        if shift.dim() > 0:
            raise ValueError(f"expected shift, a scalar, found shape {list(shift.shape)}")
        shift = shift.detach()
    better, worse = better - shift, worse - shift
    as_said = -logsigmoid(better) - logsigmoid(-worse)
    return loss_under_target(as_said, -logsigmoid(worse) - logsigmoid(-better), target)


def nca_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    reference_better_logprobs: Tensor,
    reference_worse_logprobs: Tensor,
    beta: float,
    target: Tensor | float = 1.0,
) -> Tensor:
    """Noise contrastive alignment of a pair: each response against noise, so that likelihoods keep their height.

    -log σ(r̂_w) - ½·log σ(-r̂_w) - ½·log σ(-r̂_l); of the exchanged pair where p < 1.

    With p = 1 as in the source. The better response's reward is drawn to log 2, not to infinity.

    Helps when the better response's likelihood falls under DPO, as on tasks with few right answers; it
    separates pairs less far.

    Args:
        policy_better_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        reference_better_logprobs: log π_ref(y_w|x). Shape ``[C]``.
        reference_worse_logprobs: log π_ref(y_l|x). Shape ``[C]``.
        beta: β, reward per nat.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.

    Returns:
        Losses in nats, unreduced, ``[C]``; 2·log 2 where the policy is the reference. Gradient as in :func:`bco_loss`.

    Raises:
        ValueError: different shapes, or a number `target` outside [0, 1].

    Source:
        Chen et al. 2024, arXiv 2402.05369 (pairwise NCA).

    Example:
        >>> import torch
        >>> zero, h = torch.zeros(1), torch.tensor([3.0]).log()
        >>> nca_loss(h, -h, zero, zero, beta=1.0).neg().exp()  # 3/4 · √(1/4 · 3/4)
        tensor([0.3248])
    """
    better, worse = pair_rewards(
        policy_better_logprobs,
        policy_worse_logprobs,
        reference_better_logprobs,
        reference_worse_logprobs,
        beta,
    )
    noise = -(logsigmoid(-better) + logsigmoid(-worse)) / 2
    return loss_under_target(noise - logsigmoid(better), noise - logsigmoid(worse), target)


def sppo_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    reference_better_logprobs: Tensor,
    reference_worse_logprobs: Tensor,
    beta: float,
    target: Tensor | float = 1.0,
) -> Tensor:
    """Self-play preference optimisation: each log-ratio is led to how often its response wins.

    (ρ_w - (p - 1/2)/β)² + (ρ_l - (1/2 - p)/β)².

    As in the source, with η = 1/β and π_ref the policy of the round before; the soft target is its own. At p = 1
    it is TRL's ``sppo_hard``.

    Helps when it is repeated: sample, judge, train, and take the policy as the next reference. On fixed pairs
    it is IPO on each response by itself.

    Args:
        policy_better_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        reference_better_logprobs: log π_ref(y_w|x). Shape ``[C]``.
        reference_worse_logprobs: log π_ref(y_l|x). Shape ``[C]``.
        beta: β = 1/η, per nat; 0.001 in the source.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.

    Returns:
        Losses in nats², unreduced, ``[C]``; 1/(2β²) where the policy is the reference and p = 1. Gradient as in
        :func:`bco_loss`.

    Raises:
        ValueError: different shapes, or a number `target` outside [0, 1].

    Source:
        Wu et al. 2024, arXiv 2405.00675, eq. 4.7.

    Example:
        >>> import torch
        >>> zero = torch.zeros(1)
        >>> sppo_loss(torch.tensor([1.0]), zero, zero, zero, beta=0.25)  # (1 - 2)² + (0 + 2)²
        tensor([5.])
    """
    better, worse = pair_rewards(
        policy_better_logprobs,
        policy_worse_logprobs,
        reference_better_logprobs,
        reference_worse_logprobs,
        1.0,
    )
    check_target(target, better)
    place = (target - 0.5) / beta
    return (better - place).square() + (worse + place).square()
