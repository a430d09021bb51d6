import pytest

from benchmarks.intervals import bootstrap


def test_prompts_are_drawn_whole():
    # 40 prompts of 10 equal rows hold no more than 40 rows' worth of evidence: half-width 1.96 * 0.5 / sqrt(40).
    values = [float(prompt % 2) for prompt in range(40) for _ in range(10)]
    interval = bootstrap(values, [prompt for prompt in range(40) for _ in range(10)])
    assert interval.mean == 0.5
    assert (interval.unit, interval.count) == ("prompt", 40)
    assert (interval.high - interval.low) / 2 == pytest.approx(0.155, abs=0.02)


def test_few_prompts_are_resampled_by_row():
    interval = bootstrap([0.0, 1.0] * 200, ["one"] * 400)
    assert (interval.unit, interval.count) == ("row", 400)
    assert (interval.high - interval.low) / 2 == pytest.approx(0.049, abs=0.008)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="2 and 1"):
        bootstrap([1.0, 2.0], ["a"])
