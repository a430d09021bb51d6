"""How gold bends with the distance from the start: the two forms of Gao et al., fitted, and when not to trust them.

With d = √KL(π‖π_ref) and R the gold reward minus that of the start,

    reinforcement learning  R(d) = d·(α − β·log d), highest at log d = α/β − 1, where R = β·d
    best of n               R(d) = d·(α − β·d),     highest at d = α/(2β),      where R = α·d/2

Both are straight lines in R/d: against log d, and against d. The least squares weigh each point of R/d by d², which
is least squares on R itself: the noise of a mean of rewards does not depend on d, so that of R/d is all there is to see
near d = 0.

Source:
    Gao, Schulman and Hilton 2022, "Scaling laws for reward model overoptimization", https://arxiv.org/abs/2210.10760,
    section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Form = Literal["rl", "best_of_n"]

FEWEST_POINTS = {"rl": 8, "best_of_n": 4}
"""Under them two coefficients follow the noise."""
LEAST_R_SQUARED = 0.8
MOST_APART = 1.5
"""Ratio of d between the fitted peak and the one that was seen: gold is flat about its peak, so that less is noise."""


@dataclass(frozen=True)
class GaoFit:
    """A form fitted to measured points."""

    form: Form
    alpha: float
    beta: float
    r_squared: float
    """Share of the variance of R that the curve explains; nan where R does not vary."""
    points: int
    """Those away from the start, d > 0: the others say nothing."""
    nearest: float
    furthest: float
    """The smallest and the largest d among them."""

    def gain(self, distance: float) -> float:
        """R at a distance d ≥ 0."""
        if distance <= 0:
            return 0.0
        bend = math.log(distance) if self.form == "rl" else distance
        return distance * (self.alpha - self.beta * bend)

    @property
    def peak(self) -> float | None:
        """The d with the highest R; None where the curve never falls, or falls from the start."""
        if self.beta <= 0:
            return None
        if self.form == "best_of_n":
            return self.alpha / (2 * self.beta) if self.alpha > 0 else None
        exponent = self.alpha / self.beta - 1
        return math.exp(exponent) if exponent < 300 else None


def fit_gao(form: Form, distances: Sequence[float], gains: Sequence[float]) -> GaoFit | None:
    """α and β by least squares on R; None where they are not determined.

    Args:
        form: the curve.
        distances: d = √KL of each point, KL in nats a response.
        gains: R of each point: its gold reward minus that of the start.

    Returns:
        The fit; None with fewer than two different distances above 0.

    Example:
        >>> fit = fit_gao("best_of_n", [0.5, 1.0, 2.0], [0.5 * (3 - 0.5), 3 - 1.0, 2 * (3 - 2.0)])
        >>> round(fit.alpha, 6), round(fit.beta, 6), round(fit.peak, 6)
        (3.0, 1.0, 1.5)
    """
    d, gained = np.asarray(distances, dtype=float), np.asarray(gains, dtype=float)
    d, gained = d[d > 0], gained[d > 0]
    if len(np.unique(d)) < 2:
        return None
    columns = np.stack([d, -d * (np.log(d) if form == "rl" else d)], axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(columns, gained, rcond=None)
    errors = gained - columns @ [alpha, beta]
    spread = float(((gained - gained.mean()) ** 2).sum())
    r_squared = 1 - float((errors**2).sum()) / spread if spread > 0 else math.nan
    return GaoFit(form, float(alpha), float(beta), r_squared, len(d), float(d.min()), float(d.max()))


def doubts(fit: GaoFit | None, seen: float | None) -> list[str]:
    """Why the measured points do not support a fit, in words; empty where nothing speaks against it.

    Args:
        fit: as :func:`fit_gao` gave it.
        seen: d where gold was seen highest; None where it was not seen to fall since.
    """
    if fit is None:
        return ["there are not two different distances from the start"]
    found = []
    if fit.points < FEWEST_POINTS[fit.form]:
        found.append(
            f"{fit.points} points away from the start are too few, {FEWEST_POINTS[fit.form]} are wanted"
        )
    if not fit.r_squared >= LEAST_R_SQUARED:  # nan too
        found.append(f"it explains {_share(fit.r_squared)} of the variance only")
    if fit.peak is None:
        found.append("it does not bend down: no peak follows from it")
    elif fit.peak > fit.furthest:
        found.append(
            f"its peak, at {fit.peak**2:.3g} nats, lies beyond all that was measured ({fit.furthest**2:.3g} nats)"
        )
    elif seen is None:
        found.append("gold was not seen to fall: the peak is what a bend promises")
    elif not 1 / MOST_APART <= fit.peak / seen <= MOST_APART:
        found.append(
            f"its peak, at {fit.peak**2:.3g} nats, is not where gold was seen highest, at {seen**2:.3g} nats"
        )
    return found


def _share(share: float) -> str:
    return "an unknown share" if math.isnan(share) else f"{max(0.0, share):.0%}"
