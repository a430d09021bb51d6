"""The clipped surrogate and value loss on every side of the clip range."""

import math

import pytest
import torch

from lit_rlhf.losses.policy import LossMean, clipped_policy_loss, clipped_value_loss, loss_sum

RATIO = [1.5, 1.5, 0.5, 0.5, 1.1, 1.0]
ADVANTAGE = [2.0, -2.0, 2.0, -2.0, 2.0, 0.0]


def test_policy_loss_and_where_its_gradient_is_cut_off() -> None:
    logprobs = torch.tensor(RATIO).double().log().requires_grad_()
    loss = clipped_policy_loss(logprobs, torch.zeros(6).double(), torch.tensor(ADVANTAGE).double(), 0.2)
    assert loss.tolist() == pytest.approx([-2.4, 3.0, -1.0, 1.6, -2.2, 0.0])
    loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0, 3.0, -1.0, 0, -2.2, 0])  # -A·ρ, or cut off


def test_a_higher_upper_clip_range_leaves_the_lower_one() -> None:
    ratio = torch.tensor([1.25, 1.5, 0.75, 1.5]).double()
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0]).double()
    logprobs = ratio.log().requires_grad_()
    loss = clipped_policy_loss(logprobs, torch.zeros_like(ratio), advantages, 0.2, clip_range_high=0.3)
    assert loss.tolist() == pytest.approx([-1.25, -1.3, 0.8, 1.5])
    loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-1.25, 0, 0, 1.5])


def test_dual_clip_bounds_what_a_bad_response_costs_and_nothing_else() -> None:
    ratio = torch.tensor([5.0, 2.5, 0.5, 5.0]).double()
    advantages = torch.tensor([-2.0, -2.0, -2.0, 2.0]).double()
    logprobs = ratio.log().requires_grad_()
    loss = clipped_policy_loss(logprobs, torch.zeros_like(ratio), advantages, 0.2, dual_clip=3.0)
    assert loss.tolist() == pytest.approx([6.0, 5.0, 1.6, -2.4])
    loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0, 5.0, 0, 0])


def test_whole_responses_are_compared_by_what_the_caller_sums() -> None:
    policy, old = torch.tensor([[0.1, 0.2], [0.0, -0.5]]), torch.zeros(2, 2)
    advantages = torch.tensor([1.0, -1.0])
    sums = clipped_policy_loss(policy.sum(1), old.sum(1), advantages, 0.2)
    assert sums.tolist() == pytest.approx([-1.2, 0.8])  # e^0.3 and e^-0.5, both cut off
    means = clipped_policy_loss(policy.mean(1), old.mean(1), advantages, 0.2)
    assert means.tolist() == pytest.approx([-math.exp(0.15), 0.8])


LOSSES = torch.tensor([[1.0, 3.0, math.nan], [5.0, math.nan, math.nan], [math.nan] * 3])
COUNTED = ~LOSSES.isnan()


@pytest.mark.parametrize(
    ("mean", "total", "count"), [("tokens", 9.0, 3), ("responses", 2.0 + 5.0, 2), ("max_length", 9.0 / 3, 2)]
)
def test_mean_over_what(mean: LossMean, total: float, count: int) -> None:
    found, number = loss_sum(LOSSES, COUNTED, mean, max_length=3)
    assert (found.item(), number.item()) == (pytest.approx(total), count)


@pytest.mark.parametrize("mean", ["tokens", "responses", "max_length"])
def test_sums_and_counts_of_parts_add_up(mean: LossMean) -> None:
    losses = LOSSES.clone().requires_grad_()
    total, count = loss_sum(losses, COUNTED, mean, max_length=5)
    parts = [loss_sum(losses[i : i + 1], COUNTED[i : i + 1], mean, max_length=5) for i in range(3)]
    assert sum(part.item() for part, _ in parts) == pytest.approx(total.item())
    assert sum(part.item() for _, part in parts) == count.item()
    total.backward()
    assert losses.grad is not None
    first, second = {"tokens": (1, 1), "responses": (1 / 2, 1), "max_length": (1 / 5, 1 / 5)}[mean]
    assert losses.grad.flatten().tolist() == pytest.approx([first, first, 0, second, 0, 0, 0, 0, 0])


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
    for dual_clip in (1.0, 0.5):
        with pytest.raises(ValueError, match=f"dual_clip above 1, found {dual_clip}"):
            clipped_policy_loss(two, two, two, 0.2, dual_clip=dual_clip)
    with pytest.raises(ValueError, match="clip_range_high above 0, found 0"):
        clipped_policy_loss(two, two, two, 0.2, clip_range_high=0)
    with pytest.raises(ValueError, match="max_length above 0, found 0"):
        loss_sum(torch.zeros(1, 1), torch.ones(1, 1).bool(), "max_length", 0)
    with pytest.raises(ValueError, match=r"mask \[1, 2\]"):
        loss_sum(torch.zeros(1, 1), torch.ones(1, 2).bool(), "tokens", 1)
    for clip_range in (0.0, -0.2):
        with pytest.raises(ValueError, match=f"clip_range above 0, found {clip_range}"):
            clipped_policy_loss(two, two, two, clip_range)
        with pytest.raises(ValueError, match=f"clip_range above 0, found {clip_range}"):
            clipped_value_loss(two, two, two, clip_range)
