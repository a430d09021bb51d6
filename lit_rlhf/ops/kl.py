"""How far the policy is from the reference: three estimators from samples, and the exact sum.

With ρ = log π(y) - log π_ref(y) and y drawn from π, each estimates KL(π‖π_ref). As *values* they
differ in bias and variance only. As a *price* on the score r they end at different policies, and so
they do as losses, differentiated through π on samples of π. Where the expected step is zero (exact,
over whole responses y; λ makes the probabilities sum to 1):

==  ===================================  ==============================================
    β·k inside the reward, detached      β·k in the loss
==  ===================================  ==============================================
k1  π_ref·e^{r/β} / Z, the optimum       r = λ: no gradient, no leash at all
k2  r - β·ρ²/2 = λ on arms that stay     π_ref·e^{r/β} / Z, the optimum: ∇KL(π‖π_ref)
k3  r - β·(e^{-ρ}-1+ρ) = λ, the same     β·π_ref / (λ - r): ∇KL(π_ref‖π), GRPO's
==  ===================================  ==============================================

Inside the reward k2 and k3 are no leash either. Each equation has two solutions ρ an arm, and any arm
may be missing, so there are many such points. One of them is stable if Σ π·k'(ρ)·u² > 0 for all u ≠ 0
with Σ π·u = 0, over the arms that stay (k' = ρ for k2, 1 - e^{-ρ} for k3). Two arms with ρ < 0 break
it, one breaks it unless Σ π / k'(ρ) < 0: an arm less likely than under the reference is charged for
that, becomes less likely still, and runs off to zero. From π_ref, the eight arms of the tests end on
the likeliest, which is not the best. Charge k1 in the reward.

Token by token, ρ_t of each token's own distribution: k1 summed over a response is its log-ratio, so
in the reward nothing changes. In the loss k2 and k3 hold each token near the reference *where the
policy happens to be*, and leave out that a token also decides how dear the tokens after it will be:
k2 then ends at π(a|s) = π_ref(a|s)·e^{Q(s,a)/β} / Z(s), with Q what is still to come of the plain
score, which is not the optimum over responses longer than one token.

Advantages that are divided by a deviation (whitened, or GRPO's) change the right-hand column: its β
is then β·std, with the score's deviation under the policy itself. It falls as the policy sharpens, so the
leash slackens; where no β' = β·std(π_β') is left, it lets go: at β = 0.5 the eight arms of the tests end
on the best one alone. Inside the reward the price is divided along, and nothing changes.
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

    Its expected gradient through π, on samples of π, is that of KL(π‖π_ref) of the distribution that
    ρ belongs to: of whole responses if ρ is a response's sum, of the next token if it is a token's.

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
