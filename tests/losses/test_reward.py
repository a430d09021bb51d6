"""Losses of one comparison or rating: probabilities by hand, and what must not change them."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lit_rlhf.losses.reward import (
    bradley_terry_loss,
    centering_penalty,
    rao_kupper_loss,
    rating_loss,
    robust_bradley_terry_loss,
    uniform_error_loss,
)

BETTER = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
WORSE = torch.tensor([0.5, 1.0, 0.5], dtype=torch.float64)


SHARE = torch.tensor([0.9, 0.25, 0.5], dtype=torch.float64)
THRESHOLD = torch.tensor(0.4, dtype=torch.float64)

PairLoss = Callable[..., Tensor]
NOISY: dict[str, PairLoss] = {
    "robust": lambda better, worse, **kw: robust_bradley_terry_loss(better, worse, 0.2, **kw),
    "uniform_error": lambda better, worse, **kw: uniform_error_loss(better, worse, 0.1, **kw),
    "rao_kupper": lambda better, worse, **kw: rao_kupper_loss(better, worse, THRESHOLD, **kw),
}
every_noise = pytest.mark.parametrize("loss", NOISY.values(), ids=NOISY.keys())


def chance(difference: float) -> float:
    return 1 / (1 + math.exp(-difference))


def gradient(losses: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(losses.sum(), leaves, retain_graph=True)


def test_loss_and_gradient_by_hand() -> None:
    better, worse = BETTER.clone().requires_grad_(), WORSE.clone().requires_grad_()
    loss = bradley_terry_loss(better, worse)
    assert loss.tolist() == pytest.approx([-math.log(chance(d)) for d in (1.5, -2.0, 0.0)])
    loss.sum().backward()
    assert better.grad is not None
    assert worse.grad is not None
    assert better.grad.tolist() == pytest.approx([-chance(-d) for d in (1.5, -2.0, 0.0)])
    assert worse.grad.tolist() == pytest.approx([chance(-d) for d in (1.5, -2.0, 0.0)])


@pytest.mark.parametrize("loss", [bradley_terry_loss, *NOISY.values()], ids=["plain", *NOISY])
def test_a_shift_of_all_scores_changes_nothing(loss: PairLoss) -> None:
    better, worse = BETTER.clone().requires_grad_(), WORSE.clone().requires_grad_()
    plain, shifted = (loss(better + shift, worse + shift, target=SHARE) for shift in (0, 7))
    torch.testing.assert_close(shifted, plain)
    torch.testing.assert_close(gradient(shifted, better, worse), gradient(plain, better, worse))


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


@every_noise
def test_the_other_side_is_the_other_target(loss: PairLoss) -> None:
    torch.testing.assert_close(loss(BETTER, WORSE, target=SHARE), loss(WORSE, BETTER, target=1 - SHARE))


@every_noise
@pytest.mark.parametrize("target", [0.0, 0.5, 1.0])
def test_noisy_losses_of_scores_far_apart_stay_finite(loss: PairLoss, target: float) -> None:
    scores = torch.tensor([50.0, -50.0, 1e4, -1e4], requires_grad=True)
    losses = loss(scores, -scores, target=target)
    (found,) = gradient(losses, scores)
    assert losses.isfinite().all()
    assert found.isfinite().all()
    exact = loss(scores.double(), -scores.double(), target=target)
    torch.testing.assert_close(losses.double(), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("flip_rate", [0.0, 0.1, 0.45])
@pytest.mark.parametrize("target", [1.0, 0.5, 0.3])
def test_the_robust_loss_is_unbiased_under_flips(flip_rate: float, target: float) -> None:
    margin = torch.tensor([0.5, -0.3, 0.0], dtype=torch.float64)

    def robust(label: float) -> Tensor:
        return robust_bradley_terry_loss(BETTER, WORSE, flip_rate, label, margin)

    mean = (1 - flip_rate) * robust(target) + flip_rate * robust(1 - target)
    clean = bradley_terry_loss(BETTER, WORSE, target, margin)
    torch.testing.assert_close(mean, clean, atol=1e-12, rtol=0)


def test_the_robust_loss_by_hand() -> None:
    found = robust_bradley_terry_loss(BETTER, WORSE, flip_rate=0.2)
    expected = [(-0.8 * math.log(chance(d)) + 0.2 * math.log(chance(-d))) / 0.6 for d in (1.5, -2.0, 0.0)]
    assert found.tolist() == pytest.approx(expected)


def test_uniform_errors_by_hand() -> None:
    found = uniform_error_loss(BETTER, WORSE, error_rate=0.1, target=SHARE)
    expected = [
        -p * math.log(0.9 * chance(d) + 0.05) - (1 - p) * math.log(0.9 * chance(-d) + 0.05)
        for p, d in zip((0.9, 0.25, 0.5), (1.5, -2.0, 0.0), strict=True)
    ]
    assert found.tolist() == pytest.approx(expected)
    with_margin = uniform_error_loss(BETTER, WORSE, error_rate=0.1, margin=1.0)
    torch.testing.assert_close(with_margin, uniform_error_loss(BETTER - 1, WORSE, error_rate=0.1))


def test_a_comparison_contradicted_with_confidence_loses_its_pull() -> None:
    scores = torch.tensor([-1.0, -30.0], requires_grad=True)
    loss = uniform_error_loss(scores, torch.zeros(2), error_rate=0.1)
    pull = gradient(loss, scores)[0].abs()
    assert loss[1].item() == pytest.approx(-math.log(0.05))
    assert pull[1] < 1e-6 < pull[0]
    (plain,) = gradient(bradley_terry_loss(scores, torch.zeros(2)), scores)
    assert plain[1].item() == pytest.approx(-1)


@pytest.mark.parametrize("loss", [robust_bradley_terry_loss, uniform_error_loss])
def test_without_noise_both_are_bradley_terry(loss: PairLoss) -> None:
    better = torch.tensor([2.0, -300.0, 300.0], requires_grad=True)
    worse, share = torch.zeros(3), torch.tensor([0.9, 0.25, 1.0])
    found, plain = loss(better, worse, 0.0, share), bradley_terry_loss(better, worse, share)
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(gradient(found, better), gradient(plain, better))


def test_rao_kupper_in_the_strengths_of_its_source() -> None:
    """π = 3 and 1, κ = e^θ = 2: 3/(3+2), 1/(1+6), and 3·1·(κ²-1) over the product for a tie."""
    better, worse = torch.tensor([3.0]).double().log(), torch.zeros(1).double()
    threshold = torch.tensor(2.0).double().log()
    won = rao_kupper_loss(better, worse, threshold)
    lost = rao_kupper_loss(better, worse, threshold, target=0.0)
    tied = rao_kupper_loss(better, worse, threshold, target=0.5, tie=1.0)
    assert [math.exp(-each.item()) for each in (won, lost, tied)] == pytest.approx([3 / 5, 1 / 7, 9 / 35])


@pytest.mark.parametrize("threshold", [1e-6, 0.4, 5.0, 60.0])
def test_better_worse_and_tie_share_probability_1(threshold: float) -> None:
    theta = torch.tensor(threshold, dtype=torch.float64)
    total = sum(
        rao_kupper_loss(BETTER, WORSE, theta, target=target, tie=tie).neg().exp()
        for target, tie in ((1.0, 0.0), (0.0, 0.0), (0.5, 1.0))
    )
    assert isinstance(total, Tensor)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-12, rtol=0)


def test_a_wide_threshold_stays_finite_in_float32() -> None:
    """e^{2θ} does not fit; almost everything is a tie."""
    theta = torch.tensor(60.0, requires_grad=True)
    loss = rao_kupper_loss(BETTER.float(), WORSE.float(), theta, target=0.5, tie=1.0)
    assert loss.tolist() == pytest.approx([0, 0, 0], abs=1e-4)
    assert gradient(loss, theta)[0].isfinite()


def test_shares_of_the_three_judgements_weigh_their_losses() -> None:
    """Of ten people six prefer the first, one the second and three see a tie: target .75, tie .3."""
    won, lost, tied = (
        rao_kupper_loss(BETTER, WORSE, THRESHOLD, target=target, tie=tie)
        for target, tie in ((1.0, 0.0), (0.0, 0.0), (0.5, 1.0))
    )
    target, tie = torch.full_like(BETTER, 0.75), torch.full_like(BETTER, 0.3)
    found = rao_kupper_loss(BETTER, WORSE, THRESHOLD, target, tie)
    torch.testing.assert_close(found, 0.6 * won + 0.1 * lost + 0.3 * tied)


@pytest.mark.parametrize("threshold", [0.0, 1e-30, 1e-7])
def test_without_a_threshold_rao_kupper_is_bradley_terry(threshold: float) -> None:
    better, theta = BETTER.float().requires_grad_(), torch.tensor(threshold, requires_grad=True)
    found = rao_kupper_loss(better, WORSE.float(), theta, target=SHARE.float())
    plain = bradley_terry_loss(better, WORSE.float(), target=SHARE.float())
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(gradient(found, better), gradient(plain, better))
    assert gradient(found, theta)[0].isfinite()


def test_ties_raise_the_threshold_and_their_absence_lowers_it() -> None:
    theta = THRESHOLD.clone().requires_grad_()
    equal = torch.zeros(3, dtype=torch.float64)
    assert gradient(rao_kupper_loss(equal, equal, theta, target=0.5, tie=1.0), theta)[0] < 0
    assert gradient(rao_kupper_loss(equal, equal, theta), theta)[0] > 0


def test_the_penalty_is_the_squared_sum() -> None:
    better, worse = BETTER.clone().requires_grad_(), WORSE.clone().requires_grad_()
    penalty = centering_penalty(better, worse)
    assert penalty.tolist() == [6.25, 0, 1]
    for found in gradient(penalty, better, worse):
        assert found.tolist() == [5, 0, 2]


def test_only_rated_responses_are_pulled_to_their_rating() -> None:
    scores = torch.tensor([2.0, 5.0, -1.0], requires_grad=True)
    losses = rating_loss(scores, torch.tensor([3.5, float("nan"), -1.0]))
    assert losses.tolist() == [2.25, 0, 0]
    assert gradient(losses, scores)[0].tolist() == [-3, 0, 0]


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


@every_noise
@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"target": torch.ones(3, 1)}, r"target \[3, 1\]"), ({"target": -0.5}, "found -0.5")],
)
def test_wrong_targets_are_named_by_all(loss: PairLoss, arguments: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss(BETTER, WORSE, **arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: robust_bradley_terry_loss(BETTER, WORSE, 0.5), r"flip_rate within \[0, 0.5\), found 0.5"),
        (lambda: robust_bradley_terry_loss(BETTER, WORSE, -0.1), "flip_rate .* found -0.1"),
        (lambda: uniform_error_loss(BETTER, WORSE, 1.0), r"error_rate within \[0, 1\), found 1.0"),
        (lambda: uniform_error_loss(BETTER, WORSE, 0.1, margin=torch.ones(1)), r"margin \[1\]"),
        (lambda: rao_kupper_loss(BETTER, WORSE, torch.ones(3)), r"threshold, a scalar, found shape \[3\]"),
        (lambda: rao_kupper_loss(BETTER, WORSE, THRESHOLD, 0.5, tie=torch.ones(2)), r"tie \[2\]"),
        (lambda: centering_penalty(BETTER, WORSE[:, None]), r"worse_scores \[3, 1\]"),
        (lambda: rating_loss(BETTER, WORSE[:, None]), r"ratings \[3, 1\]"),
    ],
)
def test_wrong_arguments_of_the_others_are_named(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
