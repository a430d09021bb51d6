"""The score interval: published values, and its ends."""

import pytest

from lit_rlhf.metrics.proportions import wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_intervals_are_the_published_ones(successes, trials, low, high) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_interval_of_all_and_of_half() -> None:
    low, high = wilson_interval(20, 20)
    assert (low, high) == (pytest.approx(1 - 0.1611251580528194), 1.0)  # statsmodels, of the failures
    low, high = wilson_interval(7, 10)
    assert (low, high) == pytest.approx((0.39677814746114537, 0.8922087325936989))  # statsmodels
    low, high = wilson_interval(2.5, 5)
    assert low + high == pytest.approx(1)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_no_share_is_refused(successes, trials) -> None:
    with pytest.raises(ValueError, match=f"found {successes} of {trials}"):
        wilson_interval(successes, trials)
