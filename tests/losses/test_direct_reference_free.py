"""SimPO, CPO, SLiC and ORPO by hand, and at the ends of what a probability can be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from lit_rlhf.losses.reference_free import cpo_loss, odds_ratio_loss, orpo_loss, simpo_loss, slic_loss

BETTER = torch.tensor([-6.0, -2.0, -0.1], dtype=torch.float64)
WORSE = torch.tensor([-4.0, -8.0, -3.0], dtype=torch.float64)
LENGTHS = torch.tensor([4, 2, 1]), torch.tensor([2, 8, 3])
"""Means: -1.5, -1, -0.1 and -2, -1, -1."""

PairLoss = Callable[..., Tensor]
NORMALIZED: dict[str, PairLoss] = {
    "simpo": partial(simpo_loss, beta=2.0, margin=0.0),
    "odds": odds_ratio_loss,
    "orpo": partial(orpo_loss, odds_coef=0.25),
}
SUMMED: dict[str, PairLoss] = {"cpo": partial(cpo_loss, beta=0.3), "slic": partial(slic_loss, margin=1.5)}


def call(name: str, better: Tensor, worse: Tensor, exchanged: bool = False, **others: object) -> Tensor:
    if name in SUMMED:
        return SUMMED[name](better, worse, **others)
    lengths = tuple(each[: len(better)] for each in (LENGTHS[::-1] if exchanged else LENGTHS))
    return NORMALIZED[name](better, worse, *lengths, **others)


EVERY = pytest.mark.parametrize("name", [*NORMALIZED, *SUMMED])


def log_chance(h: float) -> float:
    return -math.log(1 + math.exp(-h))


def log_odds(mean: float) -> float:
    return mean - math.log(1 - math.exp(mean))


def test_simpo_by_hand() -> None:
    loss = simpo_loss(BETTER, WORSE, *LENGTHS, beta=2.0, margin=0.4)
    assert loss.tolist() == pytest.approx([-log_chance(each) for each in (0.6, -0.4, 1.4)])
    own = simpo_loss(BETTER, WORSE, *LENGTHS, beta=2.0, margin=torch.tensor([0.4, 0.0, 1.0]).double())
    assert own.tolist() == pytest.approx([-log_chance(each) for each in (0.6, 0.0, 0.8)])


def test_cpo_by_hand() -> None:
    loss = cpo_loss(BETTER, WORSE, beta=0.5, target=0.8, label_smoothing=0.25)  # .75·.8 + .25·.2
    expected = [-0.65 * log_chance(h) - 0.35 * log_chance(-h) for h in (-1.0, 3.0, 1.45)]
    assert loss.tolist() == pytest.approx(expected)


def test_slic_by_hand() -> None:
    loss = slic_loss(BETTER, WORSE, margin=torch.tensor([1.0, 1.0, 4.0]).double())
    assert loss.tolist() == pytest.approx([3.0, 0.0, 1.1])


def test_orpo_by_hand() -> None:
    odds = [log_odds(-1.5) - log_odds(-2), 0.0, log_odds(-0.1) - log_odds(-1)]
    assert odds_ratio_loss(BETTER, WORSE, *LENGTHS).tolist() == pytest.approx([-log_chance(d) for d in odds])
    expected = [nll - 0.25 * log_chance(d) for nll, d in zip((1.5, 1.0, 0.1), odds)]
    assert orpo_loss(BETTER, WORSE, *LENGTHS, odds_coef=0.25).tolist() == pytest.approx(expected)


def test_a_tie_is_no_reason_to_imitate_one_side() -> None:
    loss = orpo_loss(BETTER, WORSE, *LENGTHS, odds_coef=0.0, target=torch.tensor([0.5, 1.0, 0.0]).double())
    assert loss.tolist() == pytest.approx([1.75, 1.0, 1.0])


@EVERY
@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_exchanged_responses_and_target_are_the_same_comparison(name: str, target: float) -> None:
    found = call(name, WORSE, BETTER, exchanged=True, target=1 - target)
    torch.testing.assert_close(found, call(name, BETTER, WORSE, target=target))


@EVERY
def test_the_better_goes_up_and_the_worse_down(name: str) -> None:
    better, worse = BETTER.clone().requires_grad_(), WORSE.clone().requires_grad_()
    slopes = torch.autograd.grad(call(name, better, worse).sum(), (better, worse))
    assert (slopes[0] <= 0).all()
    assert (slopes[1] >= 0).all()
    assert (slopes[0] < 0).any()
    assert (slopes[1] > 0).any()


@EVERY
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    pair = BETTER.clone().requires_grad_(), WORSE.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda *each: call(name, *each, target=0.75), pair)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_from_certain_to_all_but_impossible_all_stays_finite(name: str, dtype: torch.dtype) -> None:
    ends = [0.0, -1e-30, -1e-9, -1e-6, -1e4]
    better, worse = torch.tensor(list(itertools.product(ends, repeat=2)), dtype=dtype).T
    for one, other in zip(better, worse):
        pair = [each.reshape(1).clone().requires_grad_() for each in (one, other)]
        loss = call(name, *pair)
        assert loss.isfinite().all()
        assert all(slope.isfinite().all() for slope in torch.autograd.grad(loss.sum(), pair))


def test_a_worse_response_that_became_certain_is_still_pushed_down() -> None:
    one = torch.tensor([1])
    better, worse = torch.tensor([-1.0]), torch.zeros(1, requires_grad=True)
    (slope,) = torch.autograd.grad(odds_ratio_loss(better, worse, one, one).sum(), worse)
    assert slope.item() > 0


def test_odds_of_what_is_nearly_certain_keep_their_digits() -> None:
    one = torch.tensor([1])
    loss = odds_ratio_loss(torch.tensor([-1e-6]), torch.tensor([-3e-7]), one, one)
    # odds of 10⁶ and 10⁶/0.3
    assert loss.item() == pytest.approx(math.log(1 + 1 / 0.3), abs=1e-4)


@EVERY
def test_single_precision_is_enough(name: str) -> None:
    found = call(name, BETTER.float(), WORSE.float())
    torch.testing.assert_close(found.double(), call(name, BETTER, WORSE), rtol=1e-5, atol=1e-6)


@EVERY
def test_wrong_shapes_and_targets_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"found -0\.5"):
        call(name, BETTER, WORSE, target=-0.5)
    with pytest.raises(ValueError, match="expected tensors of one shape"):
        call(name, BETTER, WORSE[:, None])
    with pytest.raises(ValueError, match=r"target \[1\]"):
        call(name, BETTER, WORSE, target=torch.ones(1))


def test_a_margin_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"margin \[3, 1\]"):
        slic_loss(BETTER, WORSE, margin=torch.ones(3, 1))
    with pytest.raises(ValueError, match=r"margin \[3, 1\]"):
        simpo_loss(BETTER, WORSE, *LENGTHS, beta=2.0, margin=torch.ones(3, 1))
