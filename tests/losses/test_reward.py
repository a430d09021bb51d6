"""Bradley-Terry: probabilities written out by hand, and what must not change the loss."""

import math

import pytest
import torch
from torch import Tensor

from lit_rlhf.losses.reward import bradley_terry_loss

BETTER = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
WORSE = torch.tensor([0.5, 1.0, 0.5], dtype=torch.float64)


def chance(difference: float) -> float:
    return 1 / (1 + math.exp(-difference))


def test_loss_and_gradient_by_hand() -> None:
    better, worse = BETTER.clone().requires_grad_(), WORSE.clone().requires_grad_()
    loss = bradley_terry_loss(better, worse)
    assert loss.tolist() == pytest.approx([-math.log(chance(d)) for d in (1.5, -2.0, 0.0)])
    loss.sum().backward()
    assert better.grad is not None
    assert worse.grad is not None
    assert better.grad.tolist() == pytest.approx([-chance(-d) for d in (1.5, -2.0, 0.0)])
    assert worse.grad.tolist() == pytest.approx([chance(-d) for d in (1.5, -2.0, 0.0)])


def test_a_shift_of_all_scores_changes_nothing() -> None:
    torch.testing.assert_close(bradley_terry_loss(BETTER + 7, WORSE + 7), bradley_terry_loss(BETTER, WORSE))


def test_the_margin_is_taken_off_inside() -> None:
    margin = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    loss = bradley_terry_loss(BETTER, WORSE, margin=margin)
    assert loss.tolist() == pytest.approx([-math.log(chance(d)) for d in (0.5, -2.0, -2.0)])
    assert bradley_terry_loss(BETTER, WORSE, margin=1.0)[0].item() == loss[0].item()


def test_a_tie_is_symmetric_and_pulls_the_scores_together() -> None:
    better = BETTER.clone().requires_grad_()
    tie = bradley_terry_loss(better, WORSE, target=0.5)
    torch.testing.assert_close(tie, bradley_terry_loss(WORSE, better, target=0.5))
    tie.sum().backward()
    assert better.grad is not None
    assert better.grad[0] > 0  # above the other: pushed down
    assert better.grad[1] < 0
    assert better.grad[2] == 0


def test_a_share_of_votes_weighs_the_two_sides() -> None:
    share = torch.tensor([0.9, 0.25, 1.0], dtype=torch.float64)
    expected = [
        -p * math.log(chance(d)) - (1 - p) * math.log(chance(-d))
        for p, d in zip((0.9, 0.25, 1.0), (1.5, -2.0, 0.0), strict=True)
    ]
    assert bradley_terry_loss(BETTER, WORSE, target=share).tolist() == pytest.approx(expected)
    # 1 - ε is label smoothing: the loss is smallest where σ(d) = 1 - ε
    scores = torch.tensor([math.log(9.0)], dtype=torch.float64, requires_grad=True)
    bradley_terry_loss(scores, torch.zeros(1, dtype=torch.float64), target=0.9).sum().backward()
    assert scores.grad is not None
    assert scores.grad.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("target", [0.0, 0.5, 1.0])
def test_scores_far_apart_stay_finite(target: float) -> None:
    scores = torch.tensor([1e4, -1e4], requires_grad=True)
    loss = bradley_terry_loss(scores, -scores, target=target)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([(1 - target) * 2e4, target * 2e4])
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"worse_scores": WORSE[:, None]}, r"worse_scores \[3, 1\]"),
        ({"target": torch.ones(3, 1)}, r"target \[3, 1\]"),
        ({"margin": torch.ones(1)}, r"margin \[1\]"),
        ({"target": 1.5}, "found 1.5"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Tensor | float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bradley_terry_loss(**({"better_scores": BETTER, "worse_scores": WORSE} | arguments))  # type: ignore[arg-type]
