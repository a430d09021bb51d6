"""Scores brought to another mean and deviation."""

import pytest
import torch

from lit_rlhf.ops.normalization import gain_and_bias

SCORES = torch.tensor([[0.3, 10.0], [-1.0, 30.0], [2.5, 20.0], [4.0, 10.0]], dtype=torch.float64)
"""Of four responses, by two components."""


def test_one_scale_by_hand() -> None:
    gain, bias = gain_and_bias(torch.tensor(1.5), torch.tensor(4.0), target_mean=-1.0, target_std=2.0)
    assert (gain.item(), bias.item()) == (0.5, -1.75)


def test_each_component_gets_the_mean_and_deviation_asked_for() -> None:
    mean, deviation = SCORES.mean(0), SCORES.std(0, correction=0)
    gain, bias = gain_and_bias(mean, deviation, target_mean=3.0, target_std=0.5)
    moved = gain * SCORES + bias
    assert moved.mean(0).tolist() == pytest.approx([3, 3])
    assert moved.std(0, correction=0).tolist() == pytest.approx([0.5, 0.5])
    assert torch.equal(moved.argsort(dim=0, stable=True), SCORES.argsort(dim=0, stable=True))


def test_mean_0_and_deviation_1_are_the_default_and_leave_such_scores_alone() -> None:
    gain, bias = gain_and_bias(torch.zeros(2), torch.ones(2))
    assert (gain.tolist(), bias.tolist()) == ([1, 1], [0, 0])


@pytest.mark.parametrize("deviation", [0.0, -1.0, float("nan")])
def test_scores_without_spread_are_told(deviation: float) -> None:
    with pytest.raises(ValueError, match="old_std above 0, found"):
        gain_and_bias(torch.zeros(2), torch.tensor([1.0, deviation]))


def test_a_target_without_spread_is_told() -> None:
    with pytest.raises(ValueError, match="target_std above 0, found 0"):
        gain_and_bias(torch.tensor(0.0), torch.tensor(1.0), target_std=0.0)
