"""Calibration: bins by hand, and the error against torchmetrics'."""

import pytest
import torch
from torchmetrics.classification import BinaryCalibrationError

from lit_rlhf.metrics import CalibrationError
from lit_rlhf.metrics.calibration import bin_by_confidence


def draw(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=generator), torch.rand(count, generator=generator)


@pytest.mark.parametrize("bins", [5, 10])
def test_with_hard_targets_it_is_torchmetrics(bins: int) -> None:
    probability, target = draw(500, seed=0)
    target = (target > 0.3).float()
    # torchmetrics bins all of [0, 1] and looks at one side; so it is given the preferred one
    theirs = BinaryCalibrationError(n_bins=2 * bins, norm="l1")
    right = ((probability > 0.5) == (target > 0.5)).long()
    ours = CalibrationError(bins)
    for part in range(0, 500, 125):
        ours.update(probability[part : part + 125], target[part : part + 125])
    expected = theirs(torch.maximum(probability, 1 - probability), right)
    torch.testing.assert_close(ours.compute(), expected)
    assert expected > 0.1


def test_soft_targets_are_right_by_their_share() -> None:
    # confidences 0.9, 0.9, 0.6 with 0.8, 1 - 0.4 and 0.5 of the judgements on the model's side
    error = CalibrationError(bins=5)
    error.update(torch.tensor([0.9, 0.1, 0.4]), torch.tensor([0.8, 0.4, 0.5]))
    assert error.compute().item() == pytest.approx((abs(1.8 - 1.4) + abs(0.6 - 0.5)) / 3, rel=1e-5)


def test_the_sides_do_not_matter() -> None:
    probability, target = draw(200, seed=1)
    swapped = torch.arange(200) % 3 == 0
    other = torch.where(swapped, 1 - probability, probability), torch.where(swapped, 1 - target, target)
    torch.testing.assert_close(bin_by_confidence(probability, target), bin_by_confidence(*other))


def test_a_model_that_prefers_neither_is_half_right() -> None:
    # 1/2 belongs to the first bin, and is right in 1/2 whatever people say
    assert bin_by_confidence(torch.full((2,), 0.5), torch.ones(2), bins=2).tolist() == [
        [1, 0],
        [1, 0],
        [2, 0],
    ]


def test_edges_belong_to_the_bin_above_and_one_to_the_last() -> None:
    counts = bin_by_confidence(torch.tensor([0.75, 1.0, 0.0]), torch.ones(3), bins=2)[2]
    assert counts.tolist() == [0, 3]


def test_no_comparison_has_no_error() -> None:
    error = CalibrationError()
    error.update(torch.zeros(0), torch.zeros(0))
    assert error.compute().isnan()
