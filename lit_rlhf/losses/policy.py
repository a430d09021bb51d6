"""Proximal policy optimisation: the clipped surrogate, the clipped value loss, and mean over what.

The losses are unreduced. `loss_sum` gives a sum and a count, since the mean is over the whole
optimizer batch, of which one call may see a part.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lit_rlhf.ops.masking import masked_mean, masked_sum
from lit_rlhf.ops.shapes import check_same_shape

LossMean = Literal["tokens", "responses", "max_length"]
"""What a loss is the mean over; see :func:`loss_sum`."""

_LARGEST_LOG_RATIO = 20.0
"""e²⁰ is far outside any clip range, and still finite in every float dtype it is computed in."""


def clipped_policy_loss(
    policy_logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    clip_range: float,
    clip_range_high: float | None = None,
    dual_clip: float | None = None,
) -> Tensor:
    """The clipped surrogate objective of each token, or of each response, negated.

    max(-A·ρ, -A·clip(ρ, 1-ε, 1+ε')), with ρ = π(y)/π_old(y); and where A < 0 at most -c·A.

    As in the sources, with the sign of a loss; the log-ratio is held within ±20, so that ρ stays finite.
    What ρ is a ratio of is the caller's choice: log-probabilities of tokens, their sum over a response
    (the bandit's view), or their mean over it (GSPO, Zheng et al. 2025, arXiv 2507.18071, eq. 7).

    Args:
        policy_logprobs: log π under the policy being trained. Shape ``[N, R]``, or ``[N]`` for responses.
        old_logprobs: log π_old, under the policy that drew them. The same shape.
        advantages: A, as they come from the rollout. The same shape.
        clip_range: ε > 0, how far the ratio may fall before it stops paying; 0.2 is usual.
        clip_range_high: ε' > 0, how far it may rise; None = ε. A larger one (0.28) lets rare tokens grow.
        dual_clip: c > 1, a bound on what a bad response may cost once the policy has moved *towards* it;
            3 in its source, None = no bound.

    Returns:
        Losses, unreduced, the shape given; 0 where the advantage is. Gradient flows to `policy_logprobs`
        alone: the others are held constant.

    Raises:
        ValueError: the shapes differ, a clip range is not positive, or `dual_clip` is not above 1.

    Source:
        Schulman et al. 2017, arXiv 1707.06347, eq. 7. ε' ("clip-higher"): Yu et al. 2025,
        arXiv 2503.14476, eq. 10. c: Ye et al. 2020, arXiv 1912.09729, eq. 5.

    Example:
        >>> ratio, advantages = torch.tensor([1.5, 1.5, 0.5, 4.0]), torch.tensor([1.0, -1.0, 1.0, -1.0])
        >>> clipped_policy_loss(ratio.log(), torch.zeros(4), advantages, clip_range=0.2)
        tensor([-1.2000,  1.5000, -0.5000,  4.0000])
        >>> clipped_policy_loss(ratio.log(), torch.zeros(4), advantages, 0.2, 0.4, dual_clip=3.0)
        tensor([-1.4000,  1.5000, -0.5000,  3.0000])
    """
    check_same_shape(policy_logprobs=policy_logprobs, old_logprobs=old_logprobs, advantages=advantages)
    high = clip_range if clip_range_high is None else clip_range_high
    for name, width in (("clip_range", clip_range), ("clip_range_high", high)):
        if width <= 0:
            raise ValueError(f"expected {name} above 0, found {width}")
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(f"expected dual_clip above 1, found {dual_clip}: it would clip an unchanged policy")
    advantages = advantages.detach()
    log_ratio = policy_logprobs - old_logprobs.detach()
    ratio = log_ratio.clamp(-_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO).exp()
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + high))
    if dual_clip is None:
        return losses
    return torch.where(advantages < 0, torch.minimum(losses, -dual_clip * advantages), losses)


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float | None
) -> Tensor:
    """Half the squared error of each value, the worse of the plain and the clipped one.

    max((V - R)², (V_old + clip(V - V_old, -ε, ε) - R)²) / 2.

    Args:
        values: V, from the critic being trained. Shape ``[N, R]``.
        old_values: V_old, from the critic at the time of the rollout. Shape ``[N, R]``.
        returns: R, in the scale of the rewards. Shape ``[N, R]``.
        clip_range: ε > 0, in units of the returns: with returns of scale 5 a range of 0.2 all but
            stops the critic. None leaves the plain squared error.

    Returns:
        Losses, unreduced, ``[N, R]``. Gradient flows to `values` alone: the others are held constant.

    Raises:
        ValueError: the shapes differ, or `clip_range` is not positive.

    Source:
        ``ppo2/model.py`` of openai/baselines, with the factor 1/2 of openai/lm-human-preferences;
        it has no equation in arXiv 1707.06347.

    Example:
        >>> values, old_values, returns = torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([1.0])
        >>> clipped_value_loss(values, old_values, returns, clip_range=0.2)  # (0.2 - 1)² / 2
        tensor([0.3200])
        >>> clipped_value_loss(values, old_values, returns, clip_range=None)
        tensor([0.])
    """
    check_same_shape(values=values, old_values=old_values, returns=returns)
    old_values, returns = old_values.detach(), returns.detach()
    plain = (values - returns).square()
    if clip_range is None:
        return plain / 2
    if clip_range <= 0:
        raise ValueError(f"expected clip_range above 0, found {clip_range}")
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return torch.maximum(plain, (clipped - returns).square()) / 2


def loss_sum(losses: Tensor, response_mask: Tensor, mean: LossMean, max_length: int) -> tuple[Tensor, Tensor]:
    """Sum and count whose quotient, over all parts of an optimizer batch, is its loss.

    ============  =======================================  ==================  ====================
    ``mean``      sum                                      count               who
    ============  =======================================  ==================  ====================
    tokens        Σ_i Σ_t l_it                             Σ_i T_i             PPO in RLHF, DAPO
    responses     Σ_i (Σ_t l_it) / T_i                     responses           GRPO
    max_length    Σ_i (Σ_t l_it) / `max_length`            responses           Dr. GRPO
    ============  =======================================  ==================  ====================

    With T_i the counted tokens of response i. `tokens` weighs a long response more, `responses` weighs
    each of its tokens less, `max_length` weighs tokens alike and does not depend on how long the
    batch's responses happen to be. The policy gradient of E[r] is that of `tokens` and `max_length`, up to
    a factor; that of `responses` is another one where lengths differ. A response without a counted token
    counts nowhere.

    Args:
        losses: of each token. Shape ``[N, R]``. (One loss a response: ``losses[:, None]``.)
        response_mask: True = counted, bool. Shape ``[N, R]``.
        mean: what to take the mean over.
        max_length: the longest response that could have been drawn, in tokens; read by `max_length` alone.

    Returns:
        ``(total, count)``, scalars; the count is Long. The total carries the losses' gradient.

    Raises:
        ValueError: the shapes differ, the mask is not bool, or `max_length` is not positive.

    Source:
        Shao et al. 2024, arXiv 2402.03300, eq. 3 (responses); Liu et al. 2025, arXiv 2503.20783,
        section 3.2 (max_length); Yu et al. 2025, arXiv 2503.14476, eq. 8 (tokens).

    Example:
        >>> losses = torch.tensor([[1.0, 3.0], [5.0, 0.0]])
        >>> mask = torch.tensor([[True, True], [True, False]])
        >>> loss_sum(losses, mask, "tokens", max_length=4)
        (tensor(9.), tensor(3))
        >>> loss_sum(losses, mask, "responses", max_length=4)
        (tensor(7.), tensor(2))
        >>> loss_sum(losses, mask, "max_length", max_length=4)
        (tensor(2.2500), tensor(2))
    """
    if mean == "tokens":
        return masked_sum(losses, response_mask), response_mask.sum()
    num_responses = response_mask.any(dim=1).sum()
    if mean == "responses":
        return masked_mean(losses, response_mask, dim=1).sum(), num_responses
    if max_length <= 0:
        raise ValueError(f"expected max_length above 0, found {max_length}")
    return masked_sum(losses, response_mask) / max_length, num_responses
