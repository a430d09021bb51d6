"""The clipped surrogate and value loss on every side of the clip range."""

import math

import pytest
import torch

from lit_rlhf.losses.policy import clipped_policy_loss, clipped_value_loss

RATIO = [1.5, 1.5, 0.5, 0.5, 1.1, 1.0]
ADVANTAGE = [2.0, -2.0, 2.0, -2.0, 2.0, 0.0]


def test_policy_loss_and_where_its_gradient_is_cut_off() -> None:
    logprobs = torch.tensor(RATIO).double().log().requires_grad_()
    loss = clipped_policy_loss(logprobs, torch.zeros(6).double(), torch.tensor(ADVANTAGE).double(), 0.2)
    assert loss.tolist() == pytest.approx([-2.4, 3.0, -1.0, 1.6, -2.2, 0.0])
    loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0, 3.0, -1.0, 0, -2.2, 0])  # -A·ρ, or cut off


def test_at_the_old_policy_it_is_the_policy_gradient() -> None:
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    clipped_policy_loss(logprobs, logprobs.detach(), torch.tensor([0.5, -3.0]), 0.2).sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [-0.5, 3.0]


def test_a_ratio_out_of_all_bounds_stays_finite() -> None:
    logprobs = torch.tensor([0.0, -1000.0], requires_grad=True)
    loss = clipped_policy_loss(logprobs, torch.tensor([-1000.0, 0.0]), torch.tensor([-1.0, 1.0]), 0.2)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([math.exp(20), 0.0], rel=1e-6, abs=1e-6)
    assert logprobs.grad is not None
    assert logprobs.grad.isfinite().all()


def test_only_the_trained_side_carries_gradient() -> None:
    policy, old, advantages = (torch.zeros(2, requires_grad=True) for _ in range(3))
    clipped_policy_loss(policy, old, advantages + 1, 0.2).sum().backward()
    assert (old.grad, advantages.grad) == (None, None)
    values, old_values, returns = (torch.zeros(2, requires_grad=True) for _ in range(3))
    clipped_value_loss(values, old_values, returns + 1, 0.2).sum().backward()
    assert (old_values.grad, returns.grad) == (None, None)
    assert values.grad is not None


# V, V_old, R, loss at ε = 0.2: inside; outside and towards R; outside and away from R; below
VALUE_CASES = [
    (0.1, 0.0, 1.0, 0.405),
    (1.0, 0.0, 1.0, 0.320),
    (1.0, 0.0, -1.0, 2.000),
    (-1.0, 0.0, -1.0, 0.320),
]


@pytest.mark.parametrize(("value", "old", "target", "expected"), VALUE_CASES)
def test_value_loss(value: float, old: float, target: float, expected: float) -> None:
    values, old_values, returns = (torch.tensor([each]).double() for each in (value, old, target))
    assert clipped_value_loss(values, old_values, returns, 0.2).item() == pytest.approx(expected)
    plain = clipped_value_loss(values, old_values, returns, None)
    assert plain.item() == pytest.approx((value - target) ** 2 / 2)


def test_a_clipped_value_has_no_gradient() -> None:
    values = torch.tensor([1.0, 0.1], requires_grad=True)
    clipped_value_loss(values, torch.zeros(2), torch.ones(2), 0.2).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([0.0, -0.9])


def test_wrong_arguments_are_named() -> None:
    two, column = torch.zeros(2), torch.zeros(2, 1)
    with pytest.raises(ValueError, match=r"advantages \[2, 1\]"):
        clipped_policy_loss(two, two, column, 0.2)
    with pytest.raises(ValueError, match=r"returns \[2, 1\]"):
        clipped_value_loss(two, two, column, 0.2)
    for clip_range in (0.0, -0.2):
        with pytest.raises(ValueError, match=f"clip_range above 0, found {clip_range}"):
            clipped_policy_loss(two, two, two, clip_range)
        with pytest.raises(ValueError, match=f"clip_range above 0, found {clip_range}"):
            clipped_value_loss(two, two, two, clip_range)
