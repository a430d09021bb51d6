"""A comparison of methods in numbers: a row for each method, and the paired differences between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from lit_rlhf.reports.compare_cells import (
    THE_START,
    Results,
    asked_seeds,
    done_seeds,
    measured,
    measured_start,
    minus,
    minus_start,
)
from lit_rlhf.reports.compare_resampling import Draws, Estimate, Measured, estimate

_DIGITS = 3
"""That count, in the largest number of a column."""
_MOST_DECIMALS = 6
_NOTHING = 1e-9
"""Less is what rounding leaves of 0."""


@dataclass(frozen=True)
class Measure:
    """A quantity of the table."""

    key: str
    name: str
    meaning: str
    share: bool = False
    """Shown as per cent, and between 0 and 1."""
    least: float = -math.inf


ACCURACY = Measure(
    "accuracy",
    "held-out accuracy",
    "Share of the held-out comparisons in which the implicit reward, the log of the policy’s probability over the "
    "start’s, is higher for the preferred response; equal ones are half right.",
    share=True,
)
GOLD = Measure(
    "gold",
    "gold",
    "Mean of the gold function over one response to each evaluation prompt; it trains nothing.",
)
REWARD = Measure(
    "reward",
    "reward",
    "The same by the reward. Methods that were trained on it have learned to please it: believe gold first.",
)
KL = Measure(
    "kl",
    "KL, nats a response",
    "From the policy to the start, summed over a response’s tokens and estimated on the policy’s own responses; an "
    "estimate can fall a little under 0.",
)
TOKENS = Measure(
    "tokens", "tokens a response", "Length of the responses to the evaluation prompts.", least=0.0
)
FINISHED = Measure(
    "finished", "finished", "Share of the responses that came to an end before the limit.", share=True
)
UPDATES = Measure("updates", "updates", "Steps of the optimizer.", least=0.0)
SECONDS = Measure(
    "seconds",
    "CPU seconds",
    "CPU time of a run’s own process in training, drawing and judging responses included; what is computed elsewhere, "
    "as by a reward that is served, is not in it.",
    least=0.0,
)
EPISODES = Measure("episodes", "responses drawn", "Responses that were drawn in training.", least=0.0)
MEASURES = (ACCURACY, GOLD, REWARD, KL, TOKENS, FINISHED, UPDATES, SECONDS, EPISODES)
COMPARED = (ACCURACY, GOLD, REWARD, KL, TOKENS)
"""The quantities whose differences are shown."""


@dataclass(frozen=True)
class Summary:
    """One method in numbers; None is what was not measured."""

    method: str
    seeds_done: int
    seeds_asked: int
    accuracy: Estimate | None
    gold: Estimate | None
    reward: Estimate | None
    kl: Estimate | None
    tokens: Estimate | None
    finished: Estimate | None
    updates: Estimate | None
    seconds: Estimate | None
    episodes: Estimate | None

    def get(self, measure: Measure) -> Estimate | None:
        """The number of a quantity."""
        found: Estimate | None = getattr(self, measure.key)
        return found


@dataclass(frozen=True)
class Difference:
    """A method less another, on the same seeds and prompts."""

    method: str
    against: str
    measure: Measure
    estimate: Estimate | None
    """None where they share no seed, or one was not measured."""

    @property
    def shown(self) -> Literal["above", "below", "nothing"]:
        """What the interval shows; without one, nothing."""
        if self.estimate is None or self.estimate.low is None or self.estimate.high is None:
            return "nothing"
        return "above" if self.estimate.low > 0 else "below" if self.estimate.high < 0 else "nothing"


def summarise(results: Results) -> list[Summary]:
    """A row for each method, in the order of the file.

    Args:
        results: the content of ``results.json``.

    Raises:
        ValueError: seeds of a method have been measured on different prompts.
    """
    draws, asked = Draws(), len(asked_seeds(results))
    return [
        _summary(
            str(method["name"]), len(done_seeds(method)), asked, partial(measured, results, method), draws
        )
        for method in results["methods"]
    ]


def summarise_start(results: Results) -> Summary | None:
    """The start as a row; None where it has not been measured."""
    if not results.get("start"):
        return None
    return _summary(THE_START, 1, 1, partial(measured_start, results), Draws())


def differences(results: Results) -> list[Difference]:
    """Of every method to the first one, paired by seed and prompt, in each of :data:`COMPARED`."""
    first, *others = results["methods"]
    draws, found = Draws(), []
    for measure in COMPARED:
        theirs = measured(results, first, measure.key)
        for method in others:
            ours = measured(results, method, measure.key)
            paired = minus(ours, theirs, _pair(method, first["name"], measure)) if ours and theirs else None
            number = _difference(paired, measure, draws) if paired else None
            found.append(Difference(str(method["name"]), str(first["name"]), measure, number))
    return found


def differences_to_start(results: Results) -> list[Difference]:
    """Of every method to the start, on the same prompts, in :func:`leading_measure`."""
    leading, draws, found = leading_measure(results), Draws(), []
    if leading is None:
        return []
    start = measured_start(results, leading.key)
    for method in results["methods"]:
        ours = measured(results, method, leading.key)
        paired = minus_start(ours, start, _pair(method, THE_START, leading)) if ours and start else None
        number = _difference(paired, leading, draws) if paired else None
        found.append(Difference(str(method["name"]), THE_START, leading, number))
    return found


def leading_measure(results: Results) -> Measure | None:
    """By what methods are compared first: gold, else reward, else held-out accuracy; None where nothing is measured."""
    for measure in (GOLD, REWARD, ACCURACY):
        if any(measured(results, method, measure.key) for method in results["methods"]):
            return measure
    return None


def column_decimals(measure: Measure, estimates: Sequence[Estimate | None]) -> int:
    """So many that the largest mean of a column has three digits that count; 1 for shares, none for whole numbers."""
    means = [number.mean for number in estimates if number is not None]
    if measure.share:
        return 1
    if all(mean == round(mean) for mean in means) and measure.key in ("updates", "episodes"):
        return 0
    largest = max((abs(mean) for mean in means), default=0.0)
    if largest == 0:
        return 2
    return min(_MOST_DECIMALS, max(0, _DIGITS - 1 - math.floor(math.log10(largest))))


def written(number: float, measure: Measure, decimals: int) -> str:
    """A number as it is shown; a share as per cent, without the sign.

    One that would be written as 0 but is none has the decimals that it takes, so that the side of 0 is seen.

    >>> written(-0.5, GOLD, 2), written(0.625, ACCURACY, 1), written(12345.0, UPDATES, 0), written(-0.004, GOLD, 2)
    ('−0.50', '62.5', '12,345', '−0.004')
    """
    scaled = 100 * number if measure.share else number
    if abs(scaled) < _NOTHING:
        scaled = 0.0
    text = f"{scaled:,.{decimals}f}"
    if scaled and not text.strip("-0.,"):
        text = f"{scaled:.{-math.floor(math.log10(abs(scaled)))}f}"
    return text.replace("-", "−")


def _pair(method: Mapping[str, Any], against: str, measure: Measure) -> str:
    return f"{method['name']!r} and {against!r}, field {measure.key!r}"


def _difference(paired: Measured, measure: Measure, draws: Draws) -> Estimate | None:
    """Two shares are no more than 1 apart, whatever the t interval of few seeds says."""
    number = estimate(paired, draws)
    return number.within(-1.0, 1.0) if number and measure.share else number


def _summary(name: str, done: int, asked: int, of: Callable[[str], Measured | None], draws: Draws) -> Summary:
    found = {measure.key: of(measure.key) for measure in MEASURES}
    numbers = {}
    for measure in MEASURES:
        one = found[measure.key]
        number = estimate(one, draws) if one else None
        least, most = (0.0, 1.0) if measure.share else (measure.least, math.inf)
        numbers[measure.key] = number.within(least, most) if number else None
    return Summary(name, done, asked, **numbers)
