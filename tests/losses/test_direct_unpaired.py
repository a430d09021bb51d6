"""KTO by hand, on single responses and on pairs, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from lit_rlhf.losses.unpaired import kto_loss, kto_pair_loss, kto_reference_point

POLICY = torch.tensor([-4.0, -5.0, -3.0], dtype=torch.float64)
REFERENCE = torch.tensor([-6.0, -4.5, -3.0], dtype=torch.float64)
"""Log-ratios 2, -1/2, 0."""
DESIRABLE = torch.tensor([True, False, True])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_reference_point_is_the_mean_of_mismatched_log_ratios() -> None:
    assert kto_reference_point(POLICY, REFERENCE).item() == pytest.approx(0.5)


def test_reference_point_is_never_negative() -> None:
    assert kto_reference_point(REFERENCE, POLICY).item() == 0


def test_no_gradient_flows_through_the_reference_point() -> None:
    assert not kto_reference_point(POLICY.clone().requires_grad_(), REFERENCE).requires_grad
    policy, point = POLICY.clone().requires_grad_(), torch.tensor(0.5, requires_grad=True)
    kto_loss(policy, REFERENCE, DESIRABLE, point, beta=0.3).sum().backward()
    assert point.grad is None


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_mismatched_responses_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"at least 2 mismatched responses, found {count}"):
        kto_reference_point(POLICY[:count], REFERENCE[:count])


def test_loss_by_hand() -> None:
    loss = kto_loss(POLICY, REFERENCE, DESIRABLE, 0.5, 0.4, desirable_weight=1.2, undesirable_weight=0.7)
    expected = [1.2 * (1 - sigmoid(0.6)), 0.7 * (1 - sigmoid(0.4)), 1.2 * (1 - sigmoid(-0.2))]
    assert loss.tolist() == pytest.approx(expected)


def test_desirable_responses_go_up_and_others_down() -> None:
    policy = POLICY.clone().requires_grad_()
    (slope,) = torch.autograd.grad(kto_loss(policy, REFERENCE, DESIRABLE, 0.5, 0.4).sum(), policy)
    assert slope.sign().tolist() == [-1, 1, -1]


def test_far_on_either_side_the_pull_is_gone() -> None:
    policy = torch.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    desirable = torch.tensor([True, True, False, False])
    loss = kto_loss(policy, torch.zeros(4), desirable, 0.0, 0.1)
    assert loss.tolist() == [0, 1, 1, 0]
    assert torch.autograd.grad(loss.sum(), policy)[0].tolist() == [0, 0, 0, 0]


def test_pairs_are_their_two_responses() -> None:
    better, worse = (POLICY[:2], REFERENCE[:2]), (POLICY[1:], REFERENCE[1:])
    found = kto_pair_loss(better[0], worse[0], better[1], worse[1], 0.5, 0.4, 1.0, 1.2, 0.7)
    up = kto_loss(*better, torch.tensor([True, True]), 0.5, 0.4, 1.2, 0.7)
    down = kto_loss(*worse, torch.tensor([False, False]), 0.5, 0.4, 1.2, 0.7)
    torch.testing.assert_close(found, (up + down) / 2)


def test_gradients_are_those_of_finite_differences() -> None:
    policy = POLICY.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda each: kto_loss(each, REFERENCE, DESIRABLE, 0.5, 0.4), policy)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"desirable \[2\]"):
        kto_loss(POLICY, REFERENCE, DESIRABLE[:2], 0.5, 0.4)
    with pytest.raises(ValueError, match="expected a bool desirable"):
        kto_loss(POLICY, REFERENCE, DESIRABLE.double(), 0.5, 0.4)
    with pytest.raises(ValueError, match=r"reference_point, a scalar, found shape \[3\]"):
        kto_loss(POLICY, REFERENCE, DESIRABLE, POLICY, 0.4)
    with pytest.raises(ValueError, match=r"reference_mismatched_logprobs \[1\]"):
        kto_reference_point(POLICY, REFERENCE[:1])
