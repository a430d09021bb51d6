"""The fit of Gao et al., the course of gold, and best-of-n, each against numbers that are known otherwise."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_rlhf.reports.overoptimisation_best_of_n import (
    Candidates,
    CandidatesError,
    best_of_n,
    read_candidates,
)
from lit_rlhf.reports.overoptimisation_course import course_of, judge, smooth, window_of
from lit_rlhf.reports.overoptimisation_fit import GaoFit, doubts, fit_gao
from lit_rlhf.reports.overoptimisation_runs import Run, Series

COEFFICIENTS = st.floats(0.1, 5.0)


@given(COEFFICIENTS, COEFFICIENTS, st.lists(st.floats(0.05, 10.0), min_size=4, max_size=30, unique=True))
def test_fit_finds_the_coefficients_that_made_the_points(
    alpha: float, beta: float, distances: list[float]
) -> None:
    if max(distances) < 1.5 * min(distances):
        return  # two columns that are nearly one
    fit = fit_gao("rl", [0.0, *distances], [0.0, *(d * (alpha - beta * math.log(d)) for d in distances)])
    assert fit is not None
    assert (fit.alpha, fit.beta) == pytest.approx((alpha, beta), rel=1e-5, abs=1e-5)
    assert fit.points == len(distances)
    if alpha / beta < 20:
        assert fit.peak == pytest.approx(math.exp(alpha / beta - 1), rel=1e-3)
    best = fit_gao("best_of_n", distances, [d * (alpha - beta * d) for d in distances])
    assert best is not None
    assert (best.alpha, best.beta) == pytest.approx((alpha, beta), rel=1e-5, abs=1e-5)
    assert best.peak == pytest.approx(alpha / (2 * beta), rel=1e-4)


@pytest.mark.parametrize("form", ["rl", "best_of_n"])
def test_peak_is_where_the_curve_is_highest(form: Any) -> None:
    fit = GaoFit(form, 1.63, 0.95, 1.0, 9, 0.1, 9.0)
    grid = np.linspace(1e-3, 8, 40_000)
    gains = [fit.gain(d) for d in grid]
    assert fit.peak == pytest.approx(grid[int(np.argmax(gains))], abs=1e-3)
    assert fit.gain(0.0) == 0.0


def test_fit_is_a_straight_line_of_gain_by_distance_weighed_by_distance() -> None:
    """By numpy's own weighted polynomial fit, on noisy points; plain least squares on R/d gives something else."""
    draw = np.random.default_rng(0)
    d = np.linspace(0.02, 4, 40)
    gains = d * (1.5 - 0.7 * np.log(d)) + 0.2 * draw.normal(size=40)
    fit = fit_gao("rl", d.tolist(), gains.tolist())
    slope, level = np.polyfit(np.log(d), gains / d, 1, w=d)
    assert fit is not None
    assert (fit.alpha, fit.beta) == pytest.approx((level, -slope))
    errors = gains - d * (level + slope * np.log(d))
    assert fit.r_squared == pytest.approx(1 - (errors**2).sum() / ((gains - gains.mean()) ** 2).sum())


@pytest.mark.parametrize("distances", [[], [0.0, 0.0], [1.0, 1.0, 1.0]])
def test_nothing_is_fitted_to_one_distance(distances: list[float]) -> None:
    assert fit_gao("rl", distances, [1.0] * len(distances)) is None
    assert doubts(None, None) == ["there are not two different distances from the start"]


SOUND = {
    "form": "rl",
    "alpha": 2.0,
    "beta": 1.0,
    "r_squared": 0.95,
    "points": 30,
    "nearest": 0.1,
    "furthest": 6.0,
}


@pytest.mark.parametrize(
    ("changes", "seen", "said"),
    [
        ({"points": 7}, 2.7, "7 points away from the start are too few, 8 are wanted"),
        ({"r_squared": 0.5}, 2.7, "it explains 50% of the variance only"),
        ({"r_squared": float("nan")}, 2.7, "it explains an unknown share of the variance only"),
        ({"beta": -0.2}, None, "it does not bend down"),
        ({"furthest": 2.0}, None, "its peak, at 7.39 nats, lies beyond all that was measured (4 nats)"),
        ({}, None, "gold was not seen to fall"),
        ({}, 5.0, "its peak, at 7.39 nats, is not where gold was seen highest, at 25 nats"),
    ],
)
def test_what_speaks_against_a_fit_is_said(changes: dict[str, Any], seen: float | None, said: str) -> None:
    assert doubts(GaoFit(**SOUND), math.e) == []
    found = doubts(GaoFit(**{**SOUND, **changes}), seen)
    assert len(found) == 1 and said in found[0]


# --- the course ---------------------------------------------------------------------------------------------


def run_of(gold: list[float], score: list[float] | None = None) -> Run:
    def series(values: list[float]) -> Series:
        return Series(list(range(len(values))), values)

    found = {"objective/kl": series([0.1 * i for i in range(len(gold))]), "objective/gold": series(gold)}
    found["objective/scores"] = series(score or [0.1 * i for i in range(len(gold))])
    return Run("r", Path("r"), {}, found, len(gold), len(gold), 1.0, {})


def hill(length: int, noise: float) -> list[float]:
    """Up for half of the way, then down, by 2."""
    draw = Random(0)
    half = length / 2
    return [2 - 2 * abs(i - half) / half + draw.gauss(0, noise) for i in range(length)]


def test_course_finds_the_hill_and_what_was_lost() -> None:
    course = course_of(run_of(hill(60, 0.0)).series["objective/gold"])
    assert course.window == 7
    assert course.peak_at == 30
    # means over 7: at the top 2 − (2/30)·(3 + 2 + 1)·2/7, at the end the value at iteration 56
    assert course.peak == pytest.approx(2 - 2 / 30 * 12 / 7)
    assert course.last == pytest.approx(2 - 2 * 26 / 30)
    assert course.lost == course.peak - course.last


def test_error_of_a_course_is_that_of_its_noise() -> None:
    draw = np.random.default_rng(0)
    slow = np.linspace(0, 30, 3000)
    course = course_of(Series(list(range(3000)), (slow + draw.normal(0, 0.5, 3000)).tolist()))
    assert course.error == pytest.approx(0.5 * math.sqrt(2 / window_of(3000)), rel=0.05)


@pytest.mark.parametrize(
    ("gold", "score", "verdict"),
    [
        (hill(60, 0.1), None, "over-optimised"),
        (hill(60, 0.1), hill(60, 0.1), "collapsed"),
        ([Random(i).gauss(0, 1) for i in range(60)], None, "not fallen"),
        ([float(i) for i in range(60)], None, "not fallen"),
        ([2.0, 1.0, 0.0, -1.0], None, "too short"),
        ([], None, "no gold"),
    ],
)
def test_over_optimised_is_gold_that_fell_while_the_score_did_not(
    gold: list[float], score: list[float] | None, verdict: str
) -> None:
    assert judge(run_of(gold, score)) == verdict


def test_noise_is_seldom_called_a_fall() -> None:
    draw = np.random.default_rng(1)
    called = [judge(run_of(draw.normal(size=60).tolist())) == "over-optimised" for _ in range(400)]
    assert 0 < sum(called) <= 20  # 5 %


def test_smoothing_keeps_the_ends_and_averages_between() -> None:
    values = [float(value) for value in np.random.default_rng(0).normal(size=40)]
    found = smooth(values)  # window 5
    assert (found[0], found[-1]) == (values[0], values[-1])
    assert found[1] == pytest.approx(np.mean(values[:3]))
    assert found[20] == pytest.approx(np.mean(values[18:23]))


# --- best of n ----------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), min_size=2, max_size=7))
def test_best_of_n_is_the_mean_over_all_subsets(samples: list[tuple[int, int]]) -> None:
    scores, gold = [float(s) for s, _ in samples], [float(g) for _, g in samples]
    found = best_of_n(Candidates([scores], [gold], 0))
    assert [point.n for point in found] == sorted(
        {2**p for p in range(3) if 2**p <= len(samples)} | {len(samples)}
    )
    for point in found:
        worth, best = [], []
        for chosen in itertools.combinations(range(len(samples)), point.n):
            highest = max(scores[i] for i in chosen)
            best.append(highest)
            worth.append(np.mean([gold[i] for i in chosen if scores[i] == highest]))
        assert point.score == pytest.approx(np.mean(best))
        # Ties: by symmetry each of all the tied is as likely, which the mean over subsets of the tied chosen gives too.
        assert point.gold == pytest.approx(np.mean(worth))
        assert point.kl == pytest.approx(math.log(point.n) - (point.n - 1) / point.n)


def test_prompts_weigh_alike_and_n_ends_where_the_shortest_does() -> None:
    found = best_of_n(Candidates([[0.0, 1.0], [4.0] * 9], None, 0))
    assert [(point.n, point.score, point.gold) for point in found] == [(1, 2.25, None), (2, 2.5, None)]


def row(**fields: Any) -> tuple[str, Any]:
    return "c.jsonl:3", {"prompt": "p", "responses": ["a", "b", "c"], "reward_scores": [1, 2.5, 3], **fields}


def test_candidates_are_read_and_unscored_ones_counted() -> None:
    rows = [row(gold_scores=[1, 2, 3]), row(reward_scores=[1, None, 3], gold_scores=[4, 5, None])]
    found = read_candidates(rows)
    assert (found.scores, found.gold, found.unscored) == (
        [[1.0, 2.5, 3.0], [1.0]],
        [[1.0, 2.0, 3.0], [4.0]],
        2,
    )
    assert read_candidates([row()]).gold is None


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "expected rows of scored responses, found none"),
        ([("c.jsonl:1", [1])], "c.jsonl:1: expected a JSON object, found list"),
        (
            [("c.jsonl:1", {"prompt": "p"})],
            "c.jsonl:1: expected reward_scores, .*found none .the row has prompt",
        ),
        ([row(reward_scores=[1, 2])], "c.jsonl:3: expected as many reward_scores as responses .3., found 2"),
        (
            [row(reward_scores=[1, True, 2])],
            "c.jsonl:3: reward_scores: expected a finite number or null, found True",
        ),
        ([row(reward_scores=[1, float("nan"), 2])], "expected a finite number or null, found nan"),
        ([row(gold_scores="no")], "c.jsonl:3: expected gold_scores, .*found str"),
        ([row(gold_scores=[1, 2])], "c.jsonl:3: expected as many gold_scores as responses .3., found 2"),
        ([row(), row(gold_scores=[1, 2, 3])], "expected gold_scores in all rows or in none"),
        ([row(gold_scores=[1, 2, 3]), row()], "found none here, but in c.jsonl:3"),
        (
            [("c.jsonl:2", ValueError("c.jsonl:2: expected a JSON object"))],
            "c.jsonl:2: expected a JSON object",
        ),
    ],
)
def test_row_that_cannot_be_read_is_named(rows: Any, said: str) -> None:
    with pytest.raises(CandidatesError, match=said):
        read_candidates(rows)


def test_one_scored_response_is_no_choice() -> None:
    with pytest.raises(CandidatesError, match="fewer to 1 of 2"):
        best_of_n(Candidates([[1.0], [1.0, 2.0]], None, 0))
