"""How far the policy is from the reference: three estimators from samples, and the exact sum.

With ρ = log π(y) - log π_ref(y) and y drawn from π, each estimates KL(π‖π_ref). As *values* they
differ in bias and variance only. As *losses*, differentiated through π on samples of π, they are
three different things (the expectations are exact):

====  ==========================  ================================================
k1    gradient 0                  no leash at all; k1 belongs inside the reward
k2    gradient of KL(π‖π_ref)     the leash of the RLHF objective
k3    gradient of KL(π_ref‖π)     another objective with another optimum (GRPO's)
====  ==========================  ================================================
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_rlhf.ops.shapes import check_same_shape


def k1(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """The plain estimator of KL(π‖π_ref), per token: unbiased, of either sign.

    k1 = ρ = log π(y) - log π_ref(y).

    Summed over a response it is exactly log π(y|x) / π_ref(y|x), so it is the one to charge inside
    the reward (detached). As a loss its expected gradient is zero.

    Args:
        policy_logprobs: log π. Any shape, such as a grid ``[N, R]``; nats.
        reference_logprobs: log π_ref. The same shape.

    Returns:
        Estimates in nats, unreduced, the shape given. Gradient flows to both arguments.

    Raises:
        ValueError: the shapes differ.

    Source:
        Schulman 2020, "Approximating KL Divergence", http://joschu.net/blog/kl-approx.html, k1.

    Example:
        >>> k1(torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -1.5]))
        tensor([ 1.0000, -0.5000])
    """
    check_same_shape(policy_logprobs=policy_logprobs, reference_logprobs=reference_logprobs)
    return policy_logprobs - reference_logprobs


def k2(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Half the squared log-ratio, per token: never negative, biased as a value, right as a loss.

    k2 = ρ² / 2.

    Its expected gradient through π, on samples of π, is that of KL(π‖π_ref) exactly.

    Args:
        policy_logprobs: log π. Any shape; nats.
        reference_logprobs: log π_ref. The same shape.

    Returns:
        Estimates in nats, unreduced, the shape given. Gradient flows to both arguments.

    Raises:
        ValueError: the shapes differ.

    Source:
        Schulman 2020, "Approximating KL Divergence", http://joschu.net/blog/kl-approx.html, k2.

    Example:
        >>> k2(torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -1.5]))
        tensor([0.5000, 0.1250])
    """
    return k1(policy_logprobs, reference_logprobs).square() / 2


def k3(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """The estimator with the control variate, per token: unbiased and never negative.

    k3 = e^{-ρ} - 1 + ρ.

    Good to look at. As a loss (GRPO) its expected gradient is that of KL(π_ref‖π), the other way
    round, so maximising E[r] - β·k3 ends at π = β·π_ref / (λ - r) and not at π_ref·e^{r/β} / Z.

    Args:
        policy_logprobs: log π. Any shape; nats.
        reference_logprobs: log π_ref. The same shape.

    Returns:
        Estimates in nats, unreduced, the shape given. Gradient flows to both arguments.

    Raises:
        ValueError: the shapes differ.

    Source:
        Schulman 2020, "Approximating KL Divergence", http://joschu.net/blog/kl-approx.html, k3.

    Example:
        >>> k3(torch.tensor([0.0, -1.0]), torch.tensor([0.0, -2.0]))
        tensor([0.0000, 0.3679])
    """
    log_ratio = k1(policy_logprobs, reference_logprobs)
    return torch.expm1(-log_ratio) + log_ratio


def exact_kl(policy_logits: Tensor, reference_logits: Tensor) -> Tensor:
    """KL divergence of the next-token distributions, summed over the whole vocabulary.

    KL(π‖π_ref) = Σ_v π_v (log π_v - log π_ref,v).

    Args:
        policy_logits: Shape ``[..., V]``; the softmax is taken in float32 or wider. -inf, a token
            that the policy cannot draw, adds 0.
        reference_logits: the same shape, finite wherever the policy's are.

    Returns:
        KL in nats, shape ``[...]``. Gradient flows to both arguments.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> exact_kl(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log())
        tensor(0.1438)
    """
    check_same_shape(policy_logits=policy_logits, reference_logits=reference_logits)
    wide = torch.promote_types(policy_logits.dtype, torch.float32)
    policy_logprobs = torch.log_softmax(policy_logits.to(wide), dim=-1)
    reference_logprobs = torch.log_softmax(reference_logits.to(wide), dim=-1)
    lowest = torch.finfo(wide).min
    difference = policy_logprobs.clamp(min=lowest) - reference_logprobs.clamp(min=lowest)
    return (policy_logprobs.exp() * difference).sum(-1)
