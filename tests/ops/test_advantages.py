"""Rewards per token, and generalised advantages against their closed forms and a double loop."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lit_rlhf.ops.advantages import generalized_advantages, kl_penalized_rewards, reinforce_returns

ALL = torch.ones(1, 4, dtype=torch.bool)


def test_the_score_stands_at_the_last_counted_token_and_the_price_at_each() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False], [True, False, True]])
    kl = torch.tensor([[1.0, 2.0, 3.0], [4.0, 50.0, 50.0], [5.0, 50.0, -1.0]])
    rewards = kl_penalized_rewards(torch.tensor([10.0, 20.0, 30.0]), kl, mask, kl_coef=0.5)
    assert rewards.tolist() == [[-0.5, -1.0, 8.5], [18.0, 0.0, 0.0], [-2.5, 0.0, 30.5]]


def test_without_a_price_the_score_is_left_alone_whatever_the_kl_is() -> None:
    kl = torch.tensor([[1.0, -3.0, float("inf"), float("nan")]])
    rewards = kl_penalized_rewards(torch.tensor([7.0]), kl, ALL, kl_coef=0.0)
    assert rewards.tolist() == [[0, 0, 0, 7]]


def test_a_response_whose_score_would_be_lost_is_named() -> None:
    mask = torch.tensor([[True, True], [False, False]])
    with pytest.raises(ValueError, match=r"none in responses \[1\]"):
        kl_penalized_rewards(torch.zeros(2), torch.zeros(2, 2), mask, 0.1)


def test_scores_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[1\], found \[1, 1\]"):
        kl_penalized_rewards(torch.zeros(1, 1), torch.zeros(1, 4), ALL, 0.1)
    with pytest.raises(ValueError, match=r"kl \[1, 3\]"):
        kl_penalized_rewards(torch.zeros(1), torch.zeros(1, 3), ALL, 0.1)


def last_reward(reward: float) -> Tensor:
    return torch.tensor([[0.0, 0.0, 0.0, reward]], dtype=torch.float64)


def constant(value: float) -> Tensor:
    return torch.full((1, 4), value, dtype=torch.float64)


def test_constant_values_and_a_reward_at_the_end() -> None:
    advantages, returns = generalized_advantages(constant(0.5), last_reward(2.0), ALL, gamma=1.0, lam=0.9)
    expected = [0.9**left * 1.5 for left in (3, 2, 1, 0)]  # λ^(T-t) (R - c)
    assert advantages[0].tolist() == pytest.approx(expected)
    assert returns[0].tolist() == pytest.approx([each + 0.5 for each in expected])


def test_no_values_and_a_reward_at_the_end() -> None:
    advantages, _ = generalized_advantages(constant(0.0), last_reward(2.0), ALL, gamma=0.8, lam=0.9)
    assert advantages[0].tolist() == pytest.approx([0.72**left * 2 for left in (3, 2, 1, 0)])


VALUES = torch.tensor([[0.3, -0.2, 0.7, 0.1]], dtype=torch.float64)
REWARDS = torch.tensor([[0.1, 0.2, -0.4, 1.0]], dtype=torch.float64)


def test_lambda_one_is_the_discounted_future_minus_the_value() -> None:
    advantages, returns = generalized_advantages(VALUES, REWARDS, ALL, gamma=0.5, lam=1.0)
    future = [0.1 + 0.1 - 0.1 + 0.125, 0.2 - 0.2 + 0.25, -0.4 + 0.5, 1.0]
    assert returns[0].tolist() == pytest.approx(future)
    assert advantages[0].tolist() == pytest.approx(
        [f - v for f, v in zip(future, (0.3, -0.2, 0.7, 0.1), strict=True)]
    )


def test_lambda_zero_is_the_temporal_difference() -> None:
    advantages, _ = generalized_advantages(VALUES, REWARDS, ALL, gamma=0.5, lam=0.0)
    expected = [0.1 - 0.1 - 0.3, 0.2 + 0.35 + 0.2, -0.4 + 0.05 - 0.7, 1.0 - 0.1]
    assert advantages[0].tolist() == pytest.approx(expected)


def double_loop(values: list[float], rewards: list[float], gamma: float, lam: float) -> list[float]:
    """A_t = Σ_l (γλ)^l δ_{t+l}, term by term."""
    following = [*values, 0.0][1:]
    delta = [r + gamma * n - v for r, n, v in zip(rewards, following, values, strict=True)]
    return [
        sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, len(values))) for t in range(len(values))
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(0, 3), st.floats(0, 1), st.floats(0, 1))
def test_uncounted_tokens_are_no_steps_wherever_they_stand(
    seed: int, width: int, pad: int, gamma: float, lam: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values, rewards = torch.randn(2, 3, width, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, width, generator=generator) < 0.7
    order = torch.randperm(3, generator=generator)

    def prepare(grid: Tensor) -> Tensor:
        filled = torch.where(mask, grid, float("nan"))  # nothing may read these
        return torch.nn.functional.pad(filled, (0, pad), value=float("nan"))[order]

    advantages, returns = generalized_advantages(
        prepare(values), prepare(rewards), torch.nn.functional.pad(mask, (0, pad))[order], gamma, lam
    )
    for place, row in enumerate(order.tolist()):
        counted = mask[row]
        expected = double_loop(values[row][counted].tolist(), rewards[row][counted].tolist(), gamma, lam)
        found = torch.nn.functional.pad(torch.zeros(width), (0, pad)).double()
        found[:width][counted] = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(advantages[place], found)
        found[:width][counted] += values[row][counted]
        torch.testing.assert_close(returns[place], found)


def test_factors_outside_their_range_and_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gamma within \[0, 1\], found 1.1"):
        generalized_advantages(VALUES, REWARDS, ALL, gamma=1.1, lam=0.5)
    with pytest.raises(ValueError, match=r"lam within \[0, 1\], found -0.1"):
        generalized_advantages(VALUES, REWARDS, ALL, gamma=1.0, lam=-0.1)
    with pytest.raises(ValueError, match=r"rewards \[1, 3\]"):
        generalized_advantages(VALUES, REWARDS[:, :3], ALL, gamma=1.0, lam=1.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(0, 3), st.floats(0, 1))
def test_returns_are_discounted_sums_over_the_counted_tokens(
    seed: int, width: int, pad: int, gamma: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(3, width, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, width, generator=generator) < 0.7
    grid = torch.nn.functional.pad(torch.where(mask, rewards, float("nan")), (0, pad), value=float("nan"))
    returns = reinforce_returns(grid, torch.nn.functional.pad(mask, (0, pad)), gamma)
    for row in range(3):
        counted = rewards[row][mask[row]].tolist()
        expected = [
            sum(gamma ** (s - t) * counted[s] for s in range(t, len(counted))) for t in range(len(counted))
        ]
        assert returns[row][:width][mask[row]].tolist() == pytest.approx(expected, abs=1e-9)
        assert (returns[row][:width][~mask[row]] == 0).all()
        assert (returns[row][width:] == 0).all()


def test_returns_refuse_what_generalised_advantages_refuse() -> None:
    with pytest.raises(ValueError, match=r"gamma within \[0, 1\], found 2"):
        reinforce_returns(REWARDS, ALL, gamma=2)
    with pytest.raises(ValueError, match=r"response_mask \[1, 4\]"):
        reinforce_returns(REWARDS[:, :3], ALL, gamma=1)
