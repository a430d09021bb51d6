"""The three estimators and the exact sum; gradients as losses are in test_closed_form."""

import math

import numpy as np
import pytest
import torch

from lit_rlhf.ops.kl import exact_kl, k1, k2, k3


def test_by_hand() -> None:
    policy, reference = torch.tensor([0.5, 0.25]).log(), torch.tensor([0.25, 0.5]).log()
    two = math.log(2)
    assert k1(policy, reference).tolist() == pytest.approx([two, -two])
    assert k2(policy, reference).tolist() == pytest.approx([two**2 / 2] * 2)
    assert k3(policy, reference).tolist() == pytest.approx([0.5 - 1 + two, 2 - 1 - two])


@pytest.mark.parametrize(
    ("mean", "bias", "spread"),
    [(0.1, (0, 0.0025, 0), (20.00, 1.4177, 1.4166)), (1.0, (0, 0.25, 0), (2.00, 1.7321, 1.6950))],
)
def test_moments_on_two_normals(mean: float, bias: tuple[float, ...], spread: tuple[float, ...]) -> None:
    """Bias and standard deviation over the true value, as in the table of Schulman's note."""
    points, weights = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(120))
    weights = weights / weights.sum()
    true = mean**2 / 2
    for estimator, expected_bias, expected_spread in zip((k1, k2, k3), bias, spread, strict=True):
        values = estimator(-(points**2) / 2, -((points - mean) ** 2) / 2)  # samples of N(0, 1)
        first, second = weights @ values, weights @ values**2
        assert (first / true - 1).item() == pytest.approx(expected_bias, abs=1e-4)
        assert ((second - first**2).sqrt() / true).item() == pytest.approx(expected_spread, abs=1e-4)


def test_k3_keeps_its_digits_near_zero() -> None:
    log_ratio = torch.tensor([1e-4])
    assert k3(log_ratio, torch.zeros(1)).item() == pytest.approx(5e-9, rel=0.05)  # ρ²/2


def test_exact_kl_by_hand_and_its_direction() -> None:
    policy, reference = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.1, 0.9]).log()
    forward = 0.5 * math.log(5) + 0.5 * math.log(5 / 9)
    backward = 0.1 * math.log(1 / 5) + 0.9 * math.log(9 / 5)
    assert exact_kl(policy + 3, reference - 7).item() == pytest.approx(forward, abs=1e-5)
    assert exact_kl(reference, policy).item() == pytest.approx(backward, abs=1e-6)
    assert exact_kl(policy.double(), policy.double()).item() == 0
    assert exact_kl(policy.bfloat16(), reference.bfloat16()).dtype == torch.float32


def test_a_token_that_the_policy_cannot_draw_adds_nothing() -> None:
    policy = torch.tensor([0.0, 0.0, -math.inf], requires_grad=True)
    value = exact_kl(policy, torch.zeros(3))
    value.backward()
    assert value.item() == pytest.approx(math.log(3 / 2))
    assert policy.grad is not None
    assert policy.grad.isfinite().all()


@pytest.mark.parametrize("function", [k1, k2, k3, exact_kl])
def test_shapes_that_would_broadcast_are_refused(function) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"\[2\].*\[2, 1\]"):
        function(torch.zeros(2), torch.zeros(2, 1))
