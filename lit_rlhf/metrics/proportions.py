"""The interval of a share."""

from __future__ import annotations

import math

Z = 1.959963984540054
"""Of a two-sided interval of 95 %."""


def wilson_interval(successes: float, trials: float) -> tuple[float, float]:
    """The 95 % score interval (p̂ + z²/2n ± z·√(p̂(1-p̂)/n + z²/4n²)) / (1 + z²/n) of a share p̂ of n trials.

    Args:
        successes: p̂·n.
        trials: n.

    Returns:
        The two ends, within [0, 1].

    Raises:
        ValueError: there is no trial, or there are more successes than trials.

    Source:
        Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".

    Example:
        >>> low, high = wilson_interval(0, 10)
        >>> low, round(high, 4)
        (0.0, 0.2775)
    """
    if not 0 <= successes <= trials or trials <= 0:
        raise ValueError(f"expected 0 to n successes of n > 0 trials, found {successes} of {trials}")
    share = successes / trials
    centre = share + Z**2 / (2 * trials)
    half = Z * math.sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    scale = 1 + Z**2 / trials
    # at 0 and 1 the ends are exact, but for rounding
    return max(0.0, (centre - half) / scale) if successes else 0.0, min(1.0, (centre + half) / scale)
