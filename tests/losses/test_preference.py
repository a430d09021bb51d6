"""DPO by hand; that it finds the known optimum is in test_closed_form."""

import math

import pytest
import torch

from lit_rlhf.losses.preference import dpo_loss, implicit_reward

POLICY = torch.tensor([-4.0, -6.0], dtype=torch.float64), torch.tensor([-5.0, -3.0], dtype=torch.float64)
REFERENCE = torch.tensor([-6.0, -5.0], dtype=torch.float64), torch.tensor([-4.5, -4.0], dtype=torch.float64)
# log-ratios: better 2, -1; worse -0.5, 1; so h = β·2.5, β·(-2)


def log_chance(h: float) -> float:
    return -math.log(1 + math.exp(-h))


def test_loss_by_hand() -> None:
    loss = dpo_loss(*POLICY, *REFERENCE, beta=0.4)
    assert loss.tolist() == pytest.approx([-log_chance(1.0), -log_chance(-0.8)])


def test_implicit_reward_by_hand() -> None:
    assert implicit_reward(POLICY[0], REFERENCE[0], beta=0.4).tolist() == pytest.approx([0.8, -0.4])


def test_gradient_by_hand() -> None:
    better, worse = (each.clone().requires_grad_() for each in POLICY)
    dpo_loss(better, worse, *REFERENCE, beta=0.4).sum().backward()
    weight = [0.4 * math.exp(log_chance(-h)) for h in (1.0, -0.8)]  # β σ(-h)
    assert better.grad is not None
    assert worse.grad is not None
    assert better.grad.tolist() == pytest.approx([-each for each in weight])
    assert worse.grad.tolist() == pytest.approx(weight)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_at_the_reference_the_loss_is_log_two(smoothing: float) -> None:
    loss = dpo_loss(*POLICY, *POLICY, beta=0.1, label_smoothing=smoothing)
    assert loss.tolist() == pytest.approx([math.log(2)] * 2)


def test_smoothing_is_a_target_below_one_and_both_compose() -> None:
    smoothed = dpo_loss(*POLICY, *REFERENCE, beta=0.4, label_smoothing=0.1)
    expected = -0.9 * log_chance(1.0) - 0.1 * log_chance(-1.0)
    assert smoothed[0].item() == pytest.approx(expected)
    torch.testing.assert_close(smoothed, dpo_loss(*POLICY, *REFERENCE, beta=0.4, target=0.9))
    share = torch.tensor([0.75, 0.5], dtype=torch.float64)
    both = dpo_loss(*POLICY, *REFERENCE, beta=0.4, target=share, label_smoothing=0.1)
    # .9·.75 + .1·.25 = .7; a tie stays a tie
    torch.testing.assert_close(
        both, dpo_loss(*POLICY, *REFERENCE, beta=0.4, target=torch.tensor([0.7, 0.5]).double())
    )


@pytest.mark.parametrize("smoothing", [-0.1, 0.5])
def test_smoothing_outside_its_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match=f"found {smoothing}"):
        dpo_loss(*POLICY, *REFERENCE, beta=0.1, label_smoothing=smoothing)


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reference_logprobs \[1\]"):
        dpo_loss(*POLICY, REFERENCE[0][:1], REFERENCE[1], beta=0.1)
