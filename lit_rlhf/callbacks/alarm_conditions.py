"""When something is wrong with a run that samples: conditions on the numbers of its iterations, without a trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, variance
from typing import Any

STARTS = ("objective/entropy", "rollout/response_length", "rollout/eos_rate")
"""Numbers that are compared with what they were in the first iteration."""

MOST = 0.5
"""Share of responses that end by themselves at the start, for it to mean something that they no longer do."""


LEASH = "Raise the price of KL (model.kl_coef of PPO, model.beta of the direct methods)"


@dataclass(frozen=True)
class Thresholds:
    """See :class:`lit_rlhf.callbacks.alarms.TrainingAlarms`, whose arguments these are."""

    entropy_share: float | None = 0.1
    kl_limit: float | None = 100.0
    gold_window: int | None = 10
    length_factor: float | None = 3.0
    eos_share: float | None = 0.25
    dead_critic_iterations: int | None = 20
    non_finite: bool = True

    def __post_init__(self) -> None:
        for name, above, below in (
            ("entropy_share", 0.0, 1.0),
            ("kl_limit", 0.0, math.inf),
            ("gold_window", 3, math.inf),
            ("length_factor", 1.0, math.inf),
            ("eos_share", 0.0, 1.0),
            ("dead_critic_iterations", 0, math.inf),
        ):
            value = getattr(self, name)
            if value is not None and not above < value < below:
                limit = f" and less than {below:g}" if below < math.inf else ""
                raise ValueError(
                    f"TrainingAlarms.{name}: expected null or more than {above:g}{limit}, found {value}."
                )


@dataclass
class Course:
    """What alarms remember of a run; plain values, saved in its checkpoints."""

    start: dict[str, float] = field(default_factory=dict)
    """The first iteration's numbers."""
    rollouts: list[list[float]] = field(default_factory=list)
    """[score, gold] of the last iterations."""
    validations: list[list[float]] = field(default_factory=list)
    """The same of the last validations."""
    dead_iterations: int = 0
    """Iterations in a row in which the critic explained nothing."""
    skipped_updates: int = 0
    """Updates of this iteration that were left out, because the gradient was not finite."""

    def forget_trends(self) -> None:
        """Forget what was measured on weights that are no more."""
        self.rollouts, self.validations, self.dead_iterations = [], [], 0


def ringing(numbers: Mapping[str, float], course: Course, limits: Thresholds) -> dict[str, str]:
    """The alarms that an iteration's numbers give, by name, each with a sentence; `course` is carried on.

    Args:
        numbers: what was logged, by its logged name.
        course: of the run up to here.
        limits: null thresholds give no alarm.
    """
    for name in STARTS:
        if name in numbers and math.isfinite(numbers[name]):
            course.start.setdefault(name, numbers[name])
    if "value/explained_variance" in numbers:
        dead = numbers["value/explained_variance"] <= 0
        course.dead_iterations = course.dead_iterations + 1 if dead else 0
    note_scores(course.rollouts, numbers, "objective/", limits.gold_window)
    found = {
        "entropy collapse": _entropy(numbers, course, limits.entropy_share),
        "KL beyond the limit": _kl(numbers, limits.kl_limit),
        "reward without gold": _gold(course, limits.gold_window),
        "length explosion": _length(numbers, course, limits.length_factor),
        "no end": _eos(numbers, course, limits.eos_share),
        "dead critic": _critic(course, limits.dead_critic_iterations),
        "non-finite numbers": _non_finite(numbers, course) if limits.non_finite else "",
    }
    course.skipped_updates = 0
    return {name: said for name, said in found.items() if said}


def note_scores(
    kept: list[list[float]], numbers: Mapping[str, float], prefix: str, window: int | None
) -> None:
    """Add score and gold of the moment to the last ones, where both are there."""
    pair = [numbers.get(f"{prefix}scores", math.nan), numbers.get(f"{prefix}gold", math.nan)]
    if window is not None and all(math.isfinite(value) for value in pair):
        kept.append(pair)
        del kept[:-window]


def trend(values: Sequence[float]) -> float:
    """By how many standard errors the mean of the later half lies above that of the earlier half.

    >>> round(trend([1.0, 2.0, 3.0, 4.0]), 3)
    2.828
    """
    half = len(values) // 2
    early, late = values[:half], values[-half:]
    error = math.sqrt(variance(early) / half + variance(late) / half)
    difference = fmean(late) - fmean(early)
    return difference / error if error > 0 else math.copysign(math.inf, difference) if difference else 0.0


def _entropy(numbers: Mapping[str, float], course: Course, share: float | None) -> str:
    now, start = numbers.get("objective/entropy"), course.start.get("objective/entropy")
    if share is None or now is None or start is None or not now < share * start:
        return ""
    return (
        f"objective/entropy is {now:.3g}, under {share:g} of the {start:.3g} at the start: the policy repeats itself. "
        f"{LEASH}, give model.entropy_coef where there is one, or lower the learning rate."
    )


def _kl(numbers: Mapping[str, float], limit: float | None) -> str:
    now = numbers.get("objective/kl")
    if limit is None or now is None or not now > limit:
        return ""
    return (
        f"objective/kl is {now:.4g} nats a response, over {limit:g}: the policy has left what the reward was trained "
        f"on. {LEASH}, set model.kl_target where there is one, or lower the learning rate."
    )


def _gold(course: Course, window: int | None) -> str:
    for kind, kept in (("iterations", course.rollouts), ("validations", course.validations)):
        if window is None or len(kept) < window:
            continue
        scores, gold = ([pair[side] for pair in kept] for side in (0, 1))
        if trend(scores) > 2 and trend(gold) < -2:
            return (
                f"over {window} {kind} objective/scores went from {scores[0]:.3g} to {scores[-1]:.3g} and "
                f"objective/gold from {gold[0]:.3g} to {gold[-1]:.3g}: the policy has found what the reward is wrong "
                f"about. Take an earlier checkpoint, or train the reward on these responses. {LEASH}."
            )
    return ""


def _length(numbers: Mapping[str, float], course: Course, factor: float | None) -> str:
    now, start = numbers.get("rollout/response_length"), course.start.get("rollout/response_length")
    if factor is None or now is None or start is None or not now > factor * start:
        return ""
    return (
        f"rollout/response_length is {now:.4g} tokens, over {factor:g} times the {start:.4g} at the start: the reward "
        "pays for length. Look at `lit-rlhf score` for its correlation with length, or in PPO use model.shaping's "
        "overlong_penalty."
    )


def _eos(numbers: Mapping[str, float], course: Course, share: float | None) -> str:
    now, start = numbers.get("rollout/eos_rate"), course.start.get("rollout/eos_rate")
    if share is None or now is None or start is None or start < MOST or not now < share * start:
        return ""
    return (
        f"rollout/eos_rate is {now:.3g}, under {share:g} of the {start:.3g} at the start: responses no longer end. "
        "Give those that are cut off a score of their own (in PPO by model.shaping.missing_eos_score)."
    )


def _critic(course: Course, iterations: int | None) -> str:
    if iterations is None or course.dead_iterations < iterations:
        return ""
    return (
        f"value/explained_variance has been 0 or less for {course.dead_iterations} iterations: the critic foresees "
        "nothing. Raise model.critic_learning_rate, give model.critic_warmup, or start it from the reward model "
        "(model.critic)."
    )


def _non_finite(numbers: Mapping[str, float], course: Course) -> str:
    names = sorted(
        name for name, value in numbers.items() if not (math.isfinite(value) or name.startswith("val/"))
    )
    said = [f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} no number"] if names else []
    if course.skipped_updates:
        said.append(f"{course.skipped_updates} updates were left out, whose gradient was not finite")
    if not said:
        return ""
    return f"{' and '.join(said)}. Lower the learning rate, set trainer.gradient_clip_val, or train in bf16 or fp32."


def plain(course: Course) -> dict[str, Any]:
    """The course as a checkpoint holds it; ``Course(**plain(course))`` is the same again."""
    return {
        "start": dict(course.start),
        "rollouts": [list(pair) for pair in course.rollouts],
        "validations": [list(pair) for pair in course.validations],
        "dead_iterations": course.dead_iterations,
        "skipped_updates": course.skipped_updates,
    }
