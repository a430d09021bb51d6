"""Responses against the others of their prompt: by hand, by plain loops, and where there are no others."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lit_rlhf.ops.group_advantages import dr_grpo_advantages, grpo_advantages, rloo_advantages

ALL = [rloo_advantages, grpo_advantages, dr_grpo_advantages]

REWARDS = torch.tensor([1.0, 5.0, 2.0, 7.0, 6.0], dtype=torch.float64)
GROUP = torch.tensor([3, 9, 3, 9, 3])  # 1, 2, 6 and 5, 7, dealt out of order


def test_by_hand() -> None:
    assert rloo_advantages(REWARDS, GROUP).tolist() == pytest.approx([1 - 4, 5 - 7, 2 - 3.5, 7 - 5, 6 - 1.5])
    assert dr_grpo_advantages(REWARDS, GROUP).tolist() == pytest.approx([-2, -1, -1, 1, 3])
    first, second = 7**0.5, 2**0.5  # Bessel's: (4 + 1 + 9) / 2 and (1 + 1) / 1
    expected = [-2 / first, -1 / second, -1 / first, 1 / second, 3 / first]
    assert grpo_advantages(REWARDS, GROUP, epsilon=0).tolist() == pytest.approx(expected)
    wide = [-2 / (first + 1), -1 / (second + 1), -1 / (first + 1), 1 / (second + 1), 3 / (first + 1)]
    assert grpo_advantages(REWARDS, GROUP, epsilon=1).tolist() == pytest.approx(wide)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(2, 5), min_size=1, max_size=4))
def test_each_group_is_alone(seed: int, sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(sum(sizes), generator=generator, dtype=torch.float64)
    group = torch.repeat_interleave(
        torch.randperm(50, generator=generator)[: len(sizes)], torch.tensor(sizes)
    )
    order = torch.randperm(len(rewards), generator=generator)
    rewards, group = rewards[order], group[order]
    found = {function: function(rewards, group).tolist() for function in ALL}
    for i, reward in enumerate(rewards.tolist()):
        members = [r for r, g in zip(rewards.tolist(), group.tolist(), strict=True) if g == group[i]]
        others = statistics.fmean(members) * len(members) - reward
        centred = reward - statistics.fmean(members)
        assert found[dr_grpo_advantages][i] == pytest.approx(centred, abs=1e-12)
        assert found[rloo_advantages][i] == pytest.approx(reward - others / (len(members) - 1), abs=1e-12)
        expected = centred / (statistics.stdev(members) + 1e-4)
        assert found[grpo_advantages][i] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("function", ALL)
def test_equal_rewards_give_exactly_nothing(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    rewards = torch.tensor([0.7] * 7 + [1e6 + 0.1] * 2)
    assert rewards[:7].mean() != rewards[0]  # in float32
    assert function(rewards, torch.tensor([0] * 7 + [1] * 2)).tolist() == [0] * 9


@pytest.mark.parametrize("function", ALL)
def test_a_response_alone_with_its_prompt_is_named(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"one in groups \[4, 7\]"):
        function(torch.zeros(4), torch.tensor([7, 2, 4, 2]))
    with pytest.raises(ValueError, match=r"rewards \[2\], group \[2, 1\]"):
        function(torch.zeros(2), torch.zeros(2, 1, dtype=torch.long))
