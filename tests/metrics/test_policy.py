"""What PPO watches, by hand."""

import math

import pytest
import torch

from lit_rlhf.metrics import approximate_kl, clip_fraction, explained_variance, value_clip_fraction

GRID = torch.tensor([[True, True], [True, False]])


def test_approximate_kl() -> None:
    logprobs = torch.tensor([[2.0, 0.25], [1.0, 99.0]]).log()
    expected = ((2 - 1 - math.log(2)) + (0.25 - 1 + math.log(4)) + 0) / 3
    assert approximate_kl(logprobs, torch.zeros(2, 2), GRID).item() == pytest.approx(expected)


def test_clip_fraction_counts_only_where_clipping_binds() -> None:
    ratio = torch.tensor([[1.5, 1.5, 0.5, 0.5, 1.1, 1.5]])
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0, 1.0]])
    mask = torch.tensor([[True] * 5 + [False]])  # binds, no, no, binds, no
    assert clip_fraction(ratio.log(), torch.zeros(1, 6), advantages, mask, 0.2).item() == pytest.approx(0.4)


def test_clip_fraction_knows_the_bounds_that_the_loss_knows() -> None:
    ratio, advantages = torch.tensor([1.25, 1.5, 0.7, 4.0, 4.0]), torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0])
    everything = torch.ones(5, dtype=torch.bool)

    def of(**bounds: float) -> float:
        return clip_fraction(ratio.log(), torch.zeros(5), advantages, everything, 0.2, **bounds).item()

    assert of() == pytest.approx(4 / 5)
    assert of(clip_range_high=0.3) == pytest.approx(3 / 5)  # 1.25 is inside
    assert of(dual_clip=3.0) == pytest.approx(5 / 5)  # and the bad one at 4 has no gradient
    assert of(clip_range_high=9.0, dual_clip=5.0) == pytest.approx(1 / 5)


def test_value_clip_fraction_counts_only_where_clipping_binds() -> None:
    values, returns = torch.tensor([[0.1, 1.0, 1.0, 1.0]]), torch.tensor([[1.0, 1.0, -1.0, 1.0]])
    mask = torch.tensor([[True, True, True, False]])  # inside, binds, further off by itself
    fraction = value_clip_fraction(values, torch.zeros(1, 4), returns, mask, 0.2)
    assert fraction.item() == pytest.approx(1 / 3)
    assert value_clip_fraction(values, torch.zeros(1, 4), returns, mask, None).item() == 0


def test_rounding_inside_the_range_is_no_clipping() -> None:
    generator = torch.Generator().manual_seed(0)
    old_values, values = 0.1 * torch.rand(2, 1, 1000, generator=generator)
    assert (old_values + (values - old_values) != values).any()
    everywhere = torch.ones(1, 1000, dtype=torch.bool)
    assert value_clip_fraction(values, old_values, values, everywhere, 0.2).item() == 0


def test_explained_variance() -> None:
    returns = torch.tensor([[1.0, 3.0], [5.0, 99.0]])

    def of(values: torch.Tensor) -> float:
        return explained_variance(values, returns, GRID).item()

    assert of(returns) == 1
    assert of(returns + 7) == pytest.approx(1)  # a constant error is no variance
    assert of(torch.zeros(2, 2)) == pytest.approx(0)
    assert of(-returns) == pytest.approx(-3)  # errors twice as large as the returns
    assert of(returns / 2) == pytest.approx(0.75)


def test_explained_variance_of_equal_returns_is_zero() -> None:
    assert explained_variance(torch.zeros(2, 2), torch.ones(2, 2), GRID).item() == 0
