"""Single responses that somebody called desirable or not: no second response to compare with.

A response is measured against where the policy stands as a whole, an estimate of KL(π‖π_ref) from responses
that belong to other prompts.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lit_rlhf.losses.preference import implicit_reward
from lit_rlhf.losses.targets import loss_under_target
from lit_rlhf.ops.shapes import check_same_shape


def kto_reference_point(policy_mismatched_logprobs: Tensor, reference_mismatched_logprobs: Tensor) -> Tensor:
    """How far the policy is from its reference, judged by prompts with other prompts' responses.

    z₀ = max(0, mean_i log π(y_{i+1}|x_i)/π_ref(y_{i+1}|x_i)).

    As in the source: no gradient flows through it. It depends on the batch, and is the noisier the smaller
    that is; over several micro-batches or devices the mean is better taken over all of them.

    Args:
        policy_mismatched_logprobs: log π of each prompt with the response of the next prompt, and of the last
            with the first's. Never the other response of the same prompt. Shape ``[M]``, M at least 2.
        reference_mismatched_logprobs: log π_ref of the same. Shape ``[M]``.

    Returns:
        z₀, at least 0, in nats; a scalar without gradient.

    Raises:
        ValueError: the shapes differ, or there are fewer than two: one prompt has no mismatched response.

    Source:
        Ethayarajh et al. 2024, arXiv 2402.01306, section 4.1, "Implementation" in its first version.

    Example:
        >>> kto_reference_point(torch.tensor([-1.0, -2.0]), torch.tensor([-4.0, -3.0]))
        tensor(2.)
    """
    check_same_shape(
        policy_mismatched_logprobs=policy_mismatched_logprobs,
        reference_mismatched_logprobs=reference_mismatched_logprobs,
    )
    if policy_mismatched_logprobs.numel() < 2:
        raise ValueError(
            f"expected at least 2 mismatched responses, found {policy_mismatched_logprobs.numel()}: KTO's "
            "reference point takes the responses of other prompts; use a larger batch"
        )
    logratios = policy_mismatched_logprobs.detach() - reference_mismatched_logprobs.detach()
    return logratios.mean().clamp(min=0)


def kto_loss(
    policy_logprobs: Tensor,
    reference_logprobs: Tensor,
    desirable: Tensor,
    reference_point: Tensor | float,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Kahneman-Tversky optimisation: one minus the value that people see in a gain or loss, with less for more.

    λ_D·[1 - σ(β(ρ - z₀))] of a desirable response, λ_U·[1 - σ(β(z₀ - ρ))] of another, with ρ = log π/π_ref.

    As in the source. With z₀ = 0 it is APO-zero on unpaired data, which needs no mismatched responses.

    Helps when there are thumbs up and down instead of comparisons, or labels are noisy: a response far on the
    wrong side loses its pull. With clean pairs DPO takes more out of each.

    Args:
        policy_logprobs: log π(y|x), summed over the response. Shape ``[N]``.
        reference_logprobs: log π_ref(y|x). Shape ``[N]``.
        desirable: True = desirable, bool. Shape ``[N]``.
        reference_point: z₀ in nats, of :func:`kto_reference_point`; held constant. A scalar.
        beta: β, value per nat; 0.1 is usual.
        desirable_weight: λ_D. The source wants λ_D·n_D / (λ_U·n_U) within 1 and 3/2, with n the counts.
        undesirable_weight: λ_U.

    Returns:
        Losses, dimensionless, unreduced, ``[N]``; λ/2 where the policy is the reference. Gradient flows to the
        log-probabilities of the policy, and of the reference where they carry one.

    Raises:
        ValueError: different shapes, `desirable` is not bool, or `reference_point` is not a scalar.

    Source:
        Ethayarajh et al. 2024, arXiv 2402.01306, eq. 8; in its first version eq. 7, and a range of 1 to 4/3.

    Example:
        >>> h = torch.tensor([3.0, 3.0]).log()
        >>> kto_loss(h, torch.zeros(2), torch.tensor([True, False]), reference_point=0.0, beta=1.0)
        tensor([0.2500, 0.7500])
    """
    _check_labelled(policy_logprobs, reference_logprobs, desirable)
    reference_point = _constant("reference_point", reference_point)
    gain = implicit_reward(policy_logprobs, reference_logprobs, beta) - beta * reference_point
    return torch.where(desirable, desirable_weight * (-gain).sigmoid(), undesirable_weight * gain.sigmoid())


def kto_pair_loss(
    policy_better_logprobs: Tensor,
    policy_worse_logprobs: Tensor,
    reference_better_logprobs: Tensor,
    reference_worse_logprobs: Tensor,
    reference_point: Tensor | float,
    beta: float,
    target: Tensor | float = 1.0,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """KTO on comparisons: the better response is taken as desirable, the worse as not.

    [L_D(y_w) + L_U(y_l)] / 2, with the two cases of :func:`kto_loss`; of the exchanged pair where p < 1.

    The mean of the two is KTO's mean over examples. As in the source, which splits pairs so.

    Helps when pairs and single judgements are trained on together, or labels are noisy. That a response is the
    better of two does not say that it is good: pairs of two good ones are spoiled.

    Args:
        policy_better_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        policy_worse_logprobs: log π(y_l|x). Shape ``[C]``.
        reference_better_logprobs: log π_ref(y_w|x). Shape ``[C]``.
        reference_worse_logprobs: log π_ref(y_l|x). Shape ``[C]``.
        reference_point: z₀ in nats, of :func:`kto_reference_point`; held constant. A scalar.
        beta: β, value per nat.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.
        desirable_weight: λ_D.
        undesirable_weight: λ_U.

    Returns:
        Losses, dimensionless, unreduced, ``[C]``. Gradient as in :func:`kto_loss`.

    Raises:
        ValueError: different shapes, a number `target` outside [0, 1], or `reference_point` is not a scalar.

    Source:
        Ethayarajh et al. 2024, arXiv 2402.01306, section 4.1, "Data" in its first version.

    Example:
        >>> zero, h = torch.zeros(1), torch.tensor([3.0]).log()
        >>> kto_pair_loss(h, -h, zero, zero, reference_point=0.0, beta=1.0)
        tensor([0.2500])
    """
    check_same_shape(
        policy_better_logprobs=policy_better_logprobs, policy_worse_logprobs=policy_worse_logprobs
    )
    up = torch.ones_like(policy_better_logprobs, dtype=torch.bool)

    def value_lost(policy: Tensor, reference: Tensor, desirable: Tensor) -> Tensor:
        return kto_loss(
            policy, reference, desirable, reference_point, beta, desirable_weight, undesirable_weight
        )

    better, worse = (
        [value_lost(policy, reference, desirable) for desirable in (up, ~up)]
        for policy, reference in (
            (policy_better_logprobs, reference_better_logprobs),
            (policy_worse_logprobs, reference_worse_logprobs),
        )
    )
    return loss_under_target((better[0] + worse[1]) / 2, (worse[0] + better[1]) / 2, target)


def bco_unpaired_loss(
    policy_logprobs: Tensor,
    reference_logprobs: Tensor,
    desirable: Tensor,
    beta: float,
    shift: Tensor | float = 0.0,
) -> Tensor:
    """Binary classifier optimisation on single responses: desirable ones are told from others by a threshold on r̂.

    -log σ(r̂ - δ) of a desirable response, -log σ(-(r̂ - δ)) of another, with r̂ = β·log π/π_ref.

    As in the source, without its weights for desirable and undesirable responses of different prompts.
    :func:`~lit_rlhf.losses.absolute.bco_loss` is its sum over the two responses of a pair.

    Helps where KTO does; a response far on the wrong side keeps its pull, which clean labels want and wrong ones do
    not.

    Args:
        policy_logprobs: log π(y|x), summed over the response. Shape ``[N]``.
        reference_logprobs: log π_ref(y|x). Shape ``[N]``.
        desirable: True = desirable, bool. Shape ``[N]``.
        beta: β, reward per nat.
        shift: δ, in units of r̂, held constant. A scalar.

    Returns:
        Losses in nats, unreduced, ``[N]``; log 2 where the policy is the reference and δ = 0. Gradient as in
        :func:`kto_loss`.

    Raises:
        ValueError: different shapes, `desirable` is not bool, or `shift` is not a scalar.

    Source:
        Jung et al. 2024, arXiv 2404.04656.

    Example:
        >>> h = torch.tensor([3.0, 3.0]).log()
        >>> bco_unpaired_loss(h, torch.zeros(2), torch.tensor([True, False]), beta=1.0).neg().exp()
        tensor([0.7500, 0.2500])
    """
    _check_labelled(policy_logprobs, reference_logprobs, desirable)
    above = implicit_reward(policy_logprobs, reference_logprobs, beta) - _constant("shift", shift)
    return -logsigmoid(torch.where(desirable, above, -above))


def _check_labelled(policy_logprobs: Tensor, reference_logprobs: Tensor, desirable: Tensor) -> None:
    check_same_shape(
        policy_logprobs=policy_logprobs, reference_logprobs=reference_logprobs, desirable=desirable
    )
    if desirable.dtype != torch.bool:
        raise ValueError(f"expected a bool desirable (True = desirable), found {desirable.dtype}")


def _constant(name: str, value: Tensor | float) -> Tensor | float:
    """A number, or a scalar without its gradient."""
    if not isinstance(value, Tensor):
        return value
    if value.dim() > 0:
        raise ValueError(f"expected {name}, a scalar, found shape {list(value.shape)}")
    return value.detach()
