"""The controller of the KL coefficient against its closed form, and where it would turn round."""

import pytest

from lit_rlhf.ops.kl_control import adapted_kl_coef


def after(steps: int, observed: float) -> float:
    coef = 0.15
    for _ in range(steps):
        coef = adapted_kl_coef(coef, observed, target=6.0, num_responses=512, horizon=10_000)
    return coef


def test_twice_the_target_raises_it_and_half_the_target_lowers_it() -> None:
    assert after(5, observed=12.0) == pytest.approx(0.15 * 1.01024**5)
    assert after(5, observed=3.0) == pytest.approx(0.15 * 0.98976**5)
    assert after(5, observed=6.0) == 0.15


def test_a_small_error_is_answered_in_proportion_and_a_large_one_as_if_it_were_a_fifth() -> None:
    assert after(1, observed=6.6) == pytest.approx(0.15 * (1 + 0.1 * 0.0512))
    assert after(1, observed=7.2) == pytest.approx(after(1, observed=1e9))
    assert after(1, observed=4.8) == pytest.approx(after(1, observed=-3.0))  # an estimate may be negative
    assert after(1, observed=float("inf")) == after(1, observed=12.0)


def test_what_would_spoil_the_coefficient_is_refused() -> None:
    for target in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"target above 0, found {target}"):
            adapted_kl_coef(0.1, 1.0, target, 8, 1000)
    with pytest.raises(ValueError, match="to be a number, found nan"):
        adapted_kl_coef(0.1, float("nan"), 6.0, 8, 1000)
    with pytest.raises(ValueError, match=r"above 0.2 x 512 responses, found 102"):
        adapted_kl_coef(0.1, 1.0, 6.0, 512, 102)
    assert adapted_kl_coef(0.1, 0.0, 6.0, 512, 103) > 0
