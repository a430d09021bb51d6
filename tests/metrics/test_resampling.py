"""The bootstrap of sums: of what it draws, by either way of drawing."""

import math

import pytest
import torch

from lit_rlhf.metrics.resampling import percentile_interval, resampled_sums


def few_kinds(items: int = 200) -> torch.Tensor:
    """Items of two kinds, which are drawn by their numbers."""
    return torch.tensor([[1.0, 0.0, 3.0], [0.0, 1.0, -1.0]])[(torch.arange(items) % 4 == 0).long()]


def many_kinds(items: int = 200) -> torch.Tensor:
    """Items that all differ, which are drawn one by one."""
    return torch.stack([torch.ones(items), torch.arange(items) / items, torch.zeros(items)], 1)


@pytest.mark.parametrize("features", [few_kinds(), many_kinds()], ids=["few kinds", "many kinds"])
def test_resamples_have_the_moments_of_drawing_with_replacement(features) -> None:
    sums = resampled_sums(features, resamples=20_000)
    assert sums.shape == (20_000, 3)
    items = len(features)
    assert sums.mean(0).tolist() == pytest.approx(features.sum(0).tolist(), rel=0.01, abs=1e-6)
    expected = features.double().T.cov(correction=0) * items
    assert torch.allclose(sums.T.cov(), expected, rtol=0.05, atol=1e-6)


def test_every_resample_has_as_many_items_as_there_are() -> None:
    for features in (few_kinds(), many_kinds()):
        counted = torch.cat([torch.ones(len(features), 1), features], 1)
        assert (resampled_sums(counted)[:, 0] == len(features)).all()


@pytest.mark.parametrize("features", [few_kinds(), many_kinds()], ids=["few kinds", "many kinds"])
def test_the_order_of_items_changes_nothing_and_the_seed_does(features) -> None:
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(1))
    assert torch.equal(resampled_sums(features), resampled_sums(features[order]))
    assert not torch.equal(resampled_sums(features), resampled_sums(features, seed=1))


def test_what_differs_by_rounding_alone_is_one_kind() -> None:
    features = few_kinds().double()
    almost = features + 1e-14 * torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resampled_sums(features), resampled_sums(almost))


def test_interval_leaves_undefined_resamples_out_unless_they_are_many() -> None:
    values = torch.cat([torch.arange(100.0), torch.full((5,), math.nan)])
    assert percentile_interval(values) == (2.0, 97.0)
    assert percentile_interval(torch.cat([values, torch.full((5,), math.nan)])) is None


def test_interval_of_a_mean_is_the_bootstrap_of_the_house() -> None:
    from lit_rlhf.metrics.intervals import bootstrap

    values = torch.rand(300, generator=torch.Generator().manual_seed(0))
    house = bootstrap(values, range(300))
    low, high = percentile_interval(resampled_sums(values[:, None])[:, 0] / 300)
    assert (low, high) == pytest.approx((house.low, house.high), abs=0.003)
