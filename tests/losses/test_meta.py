"""The difference loss of MetaRM: sums by hand, its bounds, and which way its gradient goes."""

import itertools
import math

import pytest
import torch

from lit_rlhf.losses.meta import difference_loss

SCORES = torch.tensor([0.4, -1.0, 2.5, 0.3, 3.0, 3.0, 1.0], dtype=torch.float64)
TREE = torch.tensor([0, 0, 0, 2, 3, 3, 3])


def by_hand(scores: list[float]) -> float:
    pairs = itertools.combinations(scores, 2)
    return 2 / len(scores) ** 2 * sum(1 / (1 + math.exp(-abs(a - b))) for a, b in pairs)


def test_each_prompt_by_hand() -> None:
    expected = [by_hand([0.4, -1.0, 2.5]), 0, 0, by_hand([3.0, 3.0, 1.0])]
    assert difference_loss(SCORES, TREE).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("k", [2, 5, 9])
def test_it_runs_from_all_equal_to_all_apart(k: int) -> None:
    tree = torch.zeros(k, dtype=torch.long)
    equal, apart = difference_loss(torch.ones(k), tree), difference_loss(100 * torch.arange(k).float(), tree)
    assert equal.item() == pytest.approx((k - 1) / (2 * k))
    assert apart.item() == pytest.approx((k - 1) / k)


def test_a_step_up_moves_the_scores_apart_and_a_shift_does_nothing() -> None:
    scores = SCORES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(difference_loss(scores, TREE).sum(), scores)
    assert gradient[2] > 0 > gradient[1]  # the highest up, the lowest down
    assert gradient[3] == 0  # alone
    assert gradient[4] == gradient[5]  # equal scores do not push each other
    assert gradient.sum().item() == pytest.approx(0, abs=1e-15)
    torch.testing.assert_close(difference_loss(SCORES + 3, TREE), difference_loss(SCORES, TREE))


def test_order_changes_nothing_and_scores_far_apart_stay_finite() -> None:
    shuffled = torch.tensor([5, 2, 0, 6, 3, 1, 4])
    torch.testing.assert_close(
        difference_loss(SCORES[shuffled], TREE[shuffled]), difference_loss(SCORES, TREE)
    )
    far = (1e4 * SCORES).float().requires_grad_()
    difference_loss(far, TREE).sum().backward()
    assert far.grad is not None
    assert far.grad.isfinite().all()


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"tree_index \[7, 1\]"):
        difference_loss(SCORES, TREE[:, None])
