"""Mean and spread over models, by hand."""

import math

import pytest
import torch

from lit_rlhf.ops.strength import preference_strength

DIFFERENCES = torch.tensor([[1.0, -2.0, 0.5], [4.0, -2.0, -0.5], [1.0, -2.0, 3.0]], dtype=torch.float64)


def test_mean_and_population_deviation_by_hand() -> None:
    mean, deviation = preference_strength(DIFFERENCES)
    assert mean.tolist() == pytest.approx([2, -2, 1])
    # Σ (d - μ)² is 1 + 4 + 1, 0, and 0.25 + 2.25 + 4
    assert deviation.tolist() == pytest.approx([math.sqrt(6 / 3), 0, math.sqrt(6.5 / 3)])


def test_the_order_of_the_models_changes_nothing_and_a_flip_turns_the_sign() -> None:
    torch.testing.assert_close(preference_strength(DIFFERENCES[[2, 0, 1]]), preference_strength(DIFFERENCES))
    mean, deviation = preference_strength(-DIFFERENCES)
    torch.testing.assert_close((-mean, deviation), preference_strength(DIFFERENCES))


def test_one_model_has_no_spread() -> None:
    mean, deviation = preference_strength(DIFFERENCES[:1])
    assert mean.tolist() == [1, -2, 0.5]
    assert deviation.tolist() == [0, 0, 0]


@pytest.mark.parametrize("differences", [torch.zeros(3), torch.zeros(0, 3)])
def test_anything_but_models_by_comparisons_is_told(differences: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"\[models, comparisons\], found \[" + str(len(differences))):
        preference_strength(differences)
