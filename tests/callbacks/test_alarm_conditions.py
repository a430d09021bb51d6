"""Each alarm rings where it should, and not beside it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lit_rlhf.callbacks.alarm_conditions import Course, Thresholds, plain, ringing, trend
from tests.callbacks.scripted import HEALTHY


def rings(history: list[dict[str, float]], **thresholds: Any) -> list[list[str]]:
    """The names of the alarms of each iteration, whose numbers differ from healthy ones as `history` says."""
    course, limits = Course(), Thresholds(**thresholds)
    return [list(ringing({**HEALTHY, **numbers}, course, limits)) for numbers in history]


@pytest.mark.parametrize(
    ("name", "key", "quiet", "loud"),
    [
        ("entropy collapse", "objective/entropy", 0.11, 0.09),
        ("KL beyond the limit", "objective/kl", 100.0, 100.1),
        ("length explosion", "rollout/response_length", 30.0, 30.1),
        ("no end", "rollout/eos_rate", 0.23, 0.22),
        ("non-finite numbers", "objective/kl", 99.0, math.nan),
        ("non-finite numbers", "train/loss", 5.0, math.inf),
    ],
)
def test_an_alarm_rings_beyond_its_threshold(name: str, key: str, quiet: float, loud: float) -> None:
    assert rings([{}, {key: quiet}, {key: loud}, {}]) == [[], [], [name], []]


@pytest.mark.parametrize(
    ("threshold", "key", "loud"),
    [
        ("entropy_share", "objective/entropy", 0.01),
        ("kl_limit", "objective/kl", 1e6),
        ("length_factor", "rollout/response_length", 1e4),
        ("eos_share", "rollout/eos_rate", 0.0),
    ],
)
def test_a_null_threshold_gives_no_alarm(threshold: str, key: str, loud: float) -> None:
    assert rings([{}, {key: loud}], **{threshold: None}) == [[], []]


def test_responses_of_which_few_ended_at_the_start_say_nothing_by_ending_less() -> None:
    assert rings([{"rollout/eos_rate": 0.49}, {"rollout/eos_rate": 0.0}]) == [[], []]
    assert rings([{"rollout/eos_rate": 0.5}, {"rollout/eos_rate": 0.0}]) == [[], ["no end"]]


def test_what_is_not_logged_gives_no_alarm() -> None:
    assert ringing({"train/loss": 1.0}, Course(), Thresholds()) == {}


def test_a_critic_is_dead_after_so_many_iterations_in_a_row() -> None:
    dead, alive = {"value/explained_variance": 0.0}, {"value/explained_variance": 0.01}
    history = [dead, dead, alive, dead, dead, dead, dead, alive]
    found = rings(history, dead_critic_iterations=3)
    assert found == [[], [], [], [], [], ["dead critic"], ["dead critic"], []]
    assert rings([dead] * 3, dead_critic_iterations=None) == [[], [], []]


def over(window: int, scores: float, gold: float, prefix: str = "objective/") -> list[dict[str, float]]:
    """Iterations in which both move by so much each time."""
    return [{f"{prefix}scores": i * scores, f"{prefix}gold": i * gold} for i in range(window)]


@pytest.mark.parametrize(
    ("scores", "gold", "expected"),
    [(0.1, -0.1, True), (0.1, 0.1, False), (-0.1, -0.1, False), (0.0, -0.1, False), (0.1, 0.0, False)],
)
def test_reward_rises_while_gold_falls(scores: float, gold: float, expected: bool) -> None:
    found = rings(over(6, scores, gold), gold_window=6)
    assert found[:5] == [[]] * 5  # the window is not full
    assert found[5] == (["reward without gold"] if expected else [])


def test_the_window_forgets_what_is_older() -> None:
    history = over(6, 0.1, -0.1) + [{"objective/scores": 0.5, "objective/gold": -0.5}] * 6
    assert rings(history, gold_window=6)[-1] == []  # over all twelve the one rises and the other falls


def test_noise_is_no_trend() -> None:
    history = [
        {"objective/scores": s, "objective/gold": g}
        for s, g in [(0.0, 1.0), (1.0, 0.0), (0.1, 0.9), (0.9, 0.1), (0.2, 1.0), (1.0, 0.1)]
    ]
    assert rings(history, gold_window=6)[-1] == []


def test_trend_counts_standard_errors() -> None:
    # halves 1, 2 and 5, 6: means 1.5 and 5.5, each variance 1/2, standard error sqrt(1/4 + 1/4)
    assert trend([1.0, 2.0, 5.0, 6.0]) == pytest.approx(4 / math.sqrt(0.5))
    assert trend([1.0, 1.0, 1.0, 1.0]) == 0.0
    assert trend([1.0, 1.0, 0.0, 0.0]) == -math.inf


def test_numbers_of_validation_may_be_missing() -> None:
    assert rings([{"val/objective/gold": math.nan}]) == [[]]


def test_updates_left_out_are_said_once() -> None:
    course = Course(skipped_updates=2)
    assert ringing(HEALTHY, course, Thresholds())["non-finite numbers"].startswith("2 updates were left out")
    assert ringing(HEALTHY, course, Thresholds()) == {}
    assert ringing(HEALTHY, Course(skipped_updates=2), Thresholds(non_finite=False)) == {}


def test_the_course_goes_through_a_checkpoint() -> None:
    course = Course({"objective/entropy": 1.0}, [[1.0, 2.0]], [[3.0, 4.0]], 5, 6)
    again = Course(**plain(course))
    assert again == course
    again.rollouts.append([0.0, 0.0])
    assert len(course.rollouts) == 1


@pytest.mark.parametrize(
    "wrong", [{"entropy_share": 1.0}, {"kl_limit": 0.0}, {"gold_window": 3}, {"length_factor": 1.0}]
)
def test_thresholds_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"TrainingAlarms\.{next(iter(wrong))}: expected null or more than"):
        Thresholds(**wrong)
