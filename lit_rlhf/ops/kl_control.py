"""The KL coefficient that holds the policy at a chosen distance from the reference."""

from __future__ import annotations

import math

_LARGEST_ERROR = 0.2
"""How much of the relative error one step answers to, in the source."""


def adapted_kl_coef(
    kl_coef: float, observed_kl: float, target: float, num_responses: int, horizon: int
) -> float:
    """The next coefficient: higher when the policy was further off than the target, lower when nearer.

    e = clip(KL/target - 1, -0.2, 0.2),  β ← β·(1 + e·n/H).

    As in the source. Five iterations of n = 512 at twice the target raise β by 5.2 % (H = 10000).

    Args:
        kl_coef: β until now, score units per nat; 0 stays 0.
        observed_kl: KL of the last rollout in nats per *response*, summed over its tokens. A mean per
            token would be compared with a target that is not one.
        target: KL wanted, nats per response, above 0 (6 in the source).
        num_responses: n, responses in that rollout, over all ranks.
        horizon: H, responses in which an error of 1 would double β (10000 in the source).

    Returns:
        The coefficient of the next rollout, of the sign of `kl_coef`.

    Raises:
        ValueError: `target` is not above 0, `observed_kl` is no number, or `horizon` is so short for
            `num_responses` that one step could turn the coefficient round.

    Source:
        Ziegler et al. 2019, arXiv 1909.08593, section 2.2 (there with K_β = 0.1 for n/H);
        ``AdaptiveKLController`` of openai/lm-human-preferences at cbfd210.

    Example:
        >>> round(adapted_kl_coef(0.15, observed_kl=12.0, target=6.0, num_responses=512, horizon=10_000), 6)
        0.151536
        >>> adapted_kl_coef(0.15, observed_kl=6.0, target=6.0, num_responses=512, horizon=10_000)
        0.15
    """
    if not target > 0:
        raise ValueError(f"expected a KL target above 0, found {target}")
    if math.isnan(observed_kl):
        raise ValueError("expected the KL of the rollout to be a number, found nan")
    if not horizon > _LARGEST_ERROR * num_responses:
        raise ValueError(
            f"expected a horizon above {_LARGEST_ERROR:g} x {num_responses} responses, found {horizon}: "
            "one step could bring the coefficient to 0 or below"
        )
    error = min(max(observed_kl / target - 1, -_LARGEST_ERROR), _LARGEST_ERROR)
    return kl_coef * (1 + error * num_responses / horizon)
