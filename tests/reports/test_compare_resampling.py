"""Intervals over seeds and prompts: against binomial tables, two-point distributions, and what must cancel."""

from __future__ import annotations

import numpy as np
import pytest

from lit_rlhf.reports.compare_resampling import Draws, Estimate, Measured, estimate, widening


def of(values: list[list[float]], prompts: tuple[object, ...] | None = (), seed: int = 0) -> Estimate:
    rows = np.array(values, dtype=float)
    found = estimate(
        Measured(tuple(range(len(rows))), rows, tuple(range(rows.shape[1])) if prompts == () else prompts),
        Draws(seed),
    )
    assert found is not None
    return found


def test_one_seed_by_prompts_is_the_binomial_interval() -> None:
    found = of([[1.0, 0.0] * 50])
    assert found.mean == 0.5 and (found.seeds, found.prompts, found.by_row) == (1, 100, False)
    # 2.5 % and 97.5 % points of a binomial of 100 and 1/2, from its table: 40 and 60
    assert found.low == pytest.approx(0.40, abs=0.011) and found.high == pytest.approx(0.60, abs=0.011)


def test_two_seeds_of_a_whole_run_spread_by_their_distance_and_the_widening() -> None:
    # resampled means of 0 and 2 are 0, 1, 2 with 1/4, 1/2, 1/4, so the interval is 1 ± 1, widened 9.168 times:
    # t for one degree of freedom 12.706, over 1.96, times the root of 2
    found = of([[0.0], [2.0]], None)
    assert found.mean == 1.0 and found.prompts == 0
    assert (found.low, found.high) == (pytest.approx(-8.168, abs=1e-3), pytest.approx(10.168, abs=1e-3))


@pytest.mark.parametrize(("seeds", "factor"), [(2, 9.168), (3, 2.689), (5, 1.584), (20, 1.096), (40, 1.082)])
def test_widening_is_t_over_z_and_the_root(seeds: int, factor: float) -> None:
    assert widening(seeds) == pytest.approx(factor, abs=1e-3)


def test_the_luck_of_prompts_does_not_average_away_over_seeds() -> None:
    row = list(np.random.default_rng(3).normal(size=60))
    once, four = of([row]), of([row] * 4)
    assert (four.low, four.high) == (pytest.approx(once.low), pytest.approx(once.high))
    assert four.seeds == 4


def test_seeds_that_differ_make_the_interval_wider_than_prompts_alone() -> None:
    row = np.random.default_rng(4).normal(size=60)
    apart = of([list(row + shift) for shift in (-1.0, -0.5, 0.0, 0.5, 1.0)])
    alone = of([list(row)])
    assert apart.mean == pytest.approx(alone.mean)
    # standard error of the seeds: sd 0.79 over the root of 5; t of 4 degrees 2.776: ± 0.98 before the prompts' part
    assert apart.high is not None and alone.high is not None
    assert apart.high - apart.mean > 0.8 and apart.high - apart.mean > 2 * (alone.high - alone.mean)


def test_rows_of_a_prompt_are_drawn_together() -> None:
    single = [1.0, 0.0] * 20
    twice = of([[value for value in single for _ in range(2)]], tuple(place // 2 for place in range(80)))
    once = of([single])
    assert (twice.low, twice.high, twice.prompts) == (once.low, once.high, 40)
    few = of([[1.0, 0.0] * 19], tuple(place // 2 for place in range(38)))
    assert few.by_row and few.prompts == 19


def test_missing_numbers_are_in_no_mean_and_counted() -> None:
    found = of([[1.0, 3.0, np.nan, 2.0], [np.nan] * 4, [4.0, 4.0, np.nan, np.nan]])
    assert found.mean == 3.0, "2 and 4, the seed without numbers left out"
    assert found.seeds == 2 and found.left_out == 1 + 4 + 2
    nothing = Measured((0,), np.full((1, 3), np.nan), (0, 1, 2))
    assert estimate(nothing, Draws()) is None


def test_what_cannot_be_resampled_has_no_interval() -> None:
    found = of([[60.0]], None)
    assert found.mean == 60.0 and found.low is None and found.high is None and not found.has_interval


def test_an_interval_is_cut_at_what_is_possible() -> None:
    found = Estimate(0.9, -0.3, 1.2, 2, 30, False, 0).within(0.0, 1.0)
    assert (found.mean, found.low, found.high) == (0.9, 0.0, 1.0)
    assert Estimate(0.9, None, None, 1, 0, False, 0).within(0.0, 1.0).low is None


def test_draws_are_whole_resamples_and_the_same_for_all() -> None:
    draws = Draws()
    times = draws.times("units", 30)
    assert times.shape == (2000, 30) and (times.sum(axis=1) == 30).all()
    assert times.mean(axis=0) == pytest.approx(np.ones(30), abs=0.12)
    assert draws.times("units", 30) is times
    assert (draws.times("seeds", 30) != times).any(), "seeds are drawn apart from prompts"
    assert (Draws().times("units", 30) == times).all()
