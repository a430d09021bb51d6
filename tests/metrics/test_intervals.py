"""Bootstrap intervals against the normal ones, which they come near to for many rows."""

import pytest
import torch

from lit_rlhf.metrics import bootstrap, intervals


def half_width(interval) -> float:
    return (interval.high - interval.low) / 2


def test_prompts_are_drawn_whole() -> None:
    # 40 prompts of 10 equal rows hold no more than 40 rows' worth of evidence: half-width 1.96 * 0.5 / sqrt(40)
    prompts = [prompt for prompt in range(40) for _ in range(10)]
    interval = bootstrap([float(prompt % 2) for prompt in prompts], prompts)
    assert interval.mean == 0.5
    assert (interval.unit, interval.count) == ("prompt", 40)
    assert half_width(interval) == pytest.approx(0.155, abs=0.02)


def test_few_prompts_are_resampled_by_row() -> None:
    interval = bootstrap([0.0, 1.0] * 200, ["one"] * 400)
    assert (interval.unit, interval.count) == ("row", 400)
    assert half_width(interval) == pytest.approx(0.049, abs=0.008)
    assert bootstrap([0.0] * 20, range(20)).unit == "prompt"
    assert bootstrap([0.0] * 20, [*range(18), 18, 18]).unit == "row"


def test_rows_are_drawn_whole_where_prompts_are_few() -> None:
    # 40 rows of 10 equal comparisons under one prompt: no more than 40 rows' worth of evidence
    rows = [row for row in range(40) for _ in range(10)]
    interval = bootstrap([float(row % 2) for row in rows], ["one"] * 400, rows=rows)
    assert (interval.mean, interval.unit, interval.count) == (0.5, "row", 40)
    assert half_width(interval) == pytest.approx(0.155, abs=0.02)
    assert bootstrap([0.0] * 20, range(20), rows=[0] * 20).unit == "prompt"


def test_prompts_of_unequal_size_weigh_by_their_rows() -> None:
    # a ratio of two random sums, Σ values / Σ rows; by the delta method its deviation is
    # sqrt(mean((sum - mean * size)^2) / groups) / mean size = sqrt((2.25 + 2.25) / 2 / 100) / 2
    prompts, values = [], []
    for prompt in range(100):
        size = 3 if prompt % 2 else 1
        prompts += [prompt] * size
        values += [float(prompt % 2)] * size
    interval = bootstrap(values, prompts)
    assert interval.mean == 0.75
    deviation = ((0.75**2 + (3 * 0.25) ** 2) / 2 / 100) ** 0.5 / 2
    assert half_width(interval) == pytest.approx(1.96 * deviation, rel=0.1)
    assert interval.low < 0.75 < interval.high < 1


def test_the_interval_is_the_middle_95_percent_of_the_means() -> None:
    values = torch.randn(900, generator=torch.Generator().manual_seed(0))
    values = (values - values.mean()) / values.std(correction=0)
    interval = bootstrap(values, range(900))
    assert interval.mean == pytest.approx(0, abs=1e-6)
    assert interval.high == pytest.approx(1.96 / 30, rel=0.1)
    assert interval.low == pytest.approx(-1.96 / 30, rel=0.1)


def test_a_seed_says_which_samples_are_drawn() -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    first, again, other = (bootstrap(values, range(50), seed) for seed in (0, 0, 1))
    assert first == again
    assert first.mean == other.mean
    assert (first.low, first.high) != (other.low, other.high)


def test_resamples_are_drawn_anew_in_every_part(monkeypatch) -> None:
    monkeypatch.setattr(
        intervals, "_DRAWS_AT_ONCE", 1000
    )  # ten resamples; equal parts would repeat ten means
    sums = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    means = intervals._resampled_means(sums, torch.ones(100, dtype=torch.float64), seed=0)
    assert len(means) == intervals.RESAMPLES
    assert len(means.unique()) > 0.99 * len(means)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2, 1 and 2"):
        bootstrap([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="0, 0 and 0"):
        bootstrap([], [])
    with pytest.raises(ValueError, match="2, 2 and 1"):
        bootstrap([1.0, 2.0], ["a", "b"], rows=["a"])
