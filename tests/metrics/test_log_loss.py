"""Log-loss and its floor, by hand."""

import math

import pytest
import torch

from lit_rlhf.metrics import PreferenceLogLoss
from lit_rlhf.metrics.log_loss import preference_log_loss, target_entropy


def test_log_loss_of_soft_targets() -> None:
    losses = preference_log_loss(torch.tensor([0.8, 0.8, 0.8]), torch.tensor([1.0, 0.0, 0.75]))
    expected = [-math.log(0.8), -math.log(0.2), -0.75 * math.log(0.8) - 0.25 * math.log(0.2)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-6)


def test_a_certain_mistake_costs_much_and_not_everything() -> None:
    losses = preference_log_loss(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1.0, 0.0, 1.0]))
    assert losses.tolist() == pytest.approx([24 * math.log(2), 24 * math.log(2), 0], abs=1e-6)


def test_the_entropy_of_targets_is_the_floor() -> None:
    assert target_entropy(torch.tensor([0.0, 1.0, 0.5, 0.25])).tolist() == pytest.approx(
        [0, 0, math.log(2), 0.25 * math.log(4) + 0.75 * math.log(4 / 3)], rel=1e-6
    )
    target = torch.linspace(0.05, 0.95, 19)
    floor = target_entropy(target)
    torch.testing.assert_close(preference_log_loss(target, target), floor)
    assert (preference_log_loss(target + 0.02, target) > floor).all()


def test_the_mean_is_over_comparisons_and_not_over_batches() -> None:
    log_loss = PreferenceLogLoss()
    log_loss.update(torch.tensor([0.5]), torch.ones(1))
    log_loss.update(torch.full((3,), 0.25), torch.ones(3))
    assert log_loss.compute().item() == pytest.approx((1 + 3 * 2) / 4 * math.log(2))


def test_no_comparison_has_no_loss() -> None:
    log_loss = PreferenceLogLoss()
    log_loss.update(torch.zeros(0), torch.zeros(0))
    assert log_loss.compute().isnan()


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"probability \[2\], target \[1\]"):
        PreferenceLogLoss().update(torch.zeros(2), torch.zeros(1))
