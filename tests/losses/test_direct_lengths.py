"""Lengths, and the weights of responses, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lit_rlhf.losses.lengths import length_desensitized_logprobs, per_token_logprobs, sft_term
from lit_rlhf.losses.weights import reward_weights, wpo_weights
from lit_rlhf.ops.logprobs import log_collision

GRID = torch.tensor([[-1.0, -2.0, -4.0, 99.0], [-0.5, 99.0, -0.25, -8.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, True, False], [True, False, True, True]])
"""What does not count stands in the middle of one response."""


def test_means_over_tokens() -> None:
    sums, lengths = torch.tensor([-6.0, -3.0, -2.0]), torch.tensor([4, 1, 0])
    assert per_token_logprobs(sums, lengths).tolist() == [-1.5, -3.0, -2.0]
    assert sft_term(sums, lengths).tolist() == [1.5, 3.0, 2.0]
    with pytest.raises(ValueError, match=r"lengths \[2\]"):
        per_token_logprobs(sums, lengths[:2])


@pytest.mark.parametrize(
    ("alpha", "expected"), [(1.0, [-7.0, -8.75]), (0.5, [-5.0, -4.75]), (0.0, [-3.0, -0.75])]
)
def test_what_is_longer_counts_less(alpha: float, expected: list[float]) -> None:
    found = length_desensitized_logprobs(GRID, MASK, torch.tensor([2, 2]), alpha)
    assert found.tolist() == pytest.approx(expected)


def test_a_tail_that_does_not_count_gets_no_gradient() -> None:
    grid = GRID.clone().requires_grad_()
    found = length_desensitized_logprobs(grid, MASK, torch.tensor([2, 3]), alpha=0.25)
    (slope,) = torch.autograd.grad(found.sum(), grid)
    assert slope.tolist() == [[1, 1, 0.25, 0], [1, 0, 1, 1]]


def test_desensitizing_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="expected alpha"):
        length_desensitized_logprobs(GRID, MASK, torch.tensor([2, 2]), alpha=1.5)
    with pytest.raises(ValueError, match=r"shared_lengths \[1\]"):
        length_desensitized_logprobs(GRID, MASK, torch.tensor([2]), alpha=0.5)


def test_reward_weights_by_hand() -> None:
    scores = torch.tensor([2.0, 0.0, 1.0, 5.0], requires_grad=True)
    found = reward_weights(scores, torch.tensor([0, 1, 0, 1]), beta=0.5)
    one, other = math.exp(4), math.exp(2)
    assert found[[0, 2]].tolist() == pytest.approx([2 * one / (one + other), 2 * other / (one + other)])
    assert (found[1] + found[3]).item() == pytest.approx(2)
    assert not found.requires_grad


def test_reward_weights_do_not_overflow_or_see_a_shift() -> None:
    tree = torch.tensor([0, 0, 2])
    found = reward_weights(torch.tensor([1e4, 1e4 - 1, -1e4]), tree, beta=0.5)
    torch.testing.assert_close(found, reward_weights(torch.tensor([1.0, 0.0, 3.0]), tree, beta=0.5))
    huge = reward_weights(torch.tensor([1e30, 0.0, 0.0]), tree, beta=1e-9)  # r/β is infinite
    assert huge.tolist() == [2.0, 0.0, 1.0]


def test_reward_weights_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="expected beta above 0, found 0"):
        reward_weights(torch.zeros(2), torch.zeros(2, dtype=torch.long), beta=0.0)
    with pytest.raises(ValueError, match=r"tree_index \[1\]"):
        reward_weights(torch.zeros(2), torch.zeros(1, dtype=torch.long), beta=1.0)
    assert reward_weights(torch.zeros(0), torch.zeros(0, dtype=torch.long), beta=1.0).shape == (0,)


def test_two_draws_agree_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log() + 7.0
    assert log_collision(logits.requires_grad_()).exp().item() == pytest.approx(0.25 + 2 / 16)
    assert not log_collision(logits).requires_grad


def test_on_policy_weights_by_hand() -> None:
    collisions = torch.full_like(GRID, -2.0)
    found = wpo_weights(GRID.clone().requires_grad_(), collisions, MASK)
    assert found.tolist() == pytest.approx([math.exp(2 - 7 / 3), math.exp(2 - 8.75 / 3)])
    assert not found.requires_grad
