"""Divergences by hand: f' of the ratio, from the f of the literature."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from lit_rlhf.losses.divergences import alpha_divergence, forward_kl, jensen_shannon, reverse_kl
from lit_rlhf.losses.preference import dpo_loss, implicit_reward

GENERATORS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "reverse KL": (reverse_kl, lambda t: t * t.log()),
    "forward KL": (forward_kl, lambda t: -t.log()),
    "Jensen-Shannon": (jensen_shannon, lambda t: t * t.log() - (t + 1) * ((t + 1) / 2).log()),
    "alpha": (
        partial(alpha_divergence, alpha=0.4),
        lambda t: (t**0.6 - 0.6 * t - 0.4) / (0.4 * (0.4 - 1)),
    ),
}
"""f'(eᵘ), and f as Wang et al. 2023, table 1, have it."""
EVERY = pytest.mark.parametrize("name", GENERATORS)


@EVERY
def test_it_is_the_slope_of_its_f(name: str) -> None:
    divergence, f = GENERATORS[name]
    ratio = torch.tensor([0.05, 0.5, 1.0, 2.0, 30.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(f(ratio).sum(), ratio)
    found = divergence(ratio.detach().log())
    torch.testing.assert_close(found, slope - slope[2])  # shifted to 0 where the policy is the reference


@EVERY
def test_it_grows_and_is_zero_at_the_reference(name: str) -> None:
    divergence, _ = GENERATORS[name]
    found = divergence(torch.linspace(-8, 8, 65, dtype=torch.float64))
    assert (found.diff() > 0).all()
    assert found[32].item() == pytest.approx(0, abs=1e-15)


@EVERY
def test_ends_are_finite(name: str) -> None:
    for end in (-1e4, -90.0, -60.5, 90.0, 1e4):
        ratio = torch.tensor([end], requires_grad=True)
        found = GENERATORS[name][0](ratio)
        (slope,) = torch.autograd.grad(found.sum(), ratio)
        assert found.isfinite().all()
        assert slope.isfinite().all()
        assert slope.item() >= 0


def test_far_below_the_exponential_goes_on_as_a_line() -> None:
    ratio = torch.tensor([-60.0, -61.0, -63.0], dtype=torch.float64, requires_grad=True)
    found = forward_kl(ratio)
    (slope,) = torch.autograd.grad(found.sum(), ratio)
    assert (found.diff() / math.exp(60)).tolist() == pytest.approx([-1, -2])
    assert (slope[1:] / math.exp(60)).tolist() == pytest.approx([1, 1])


def test_gradients_near_the_reference_keep_their_digits() -> None:
    ratio = torch.tensor([0.3, -2.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(forward_kl(ratio).sum(), ratio)
    assert slope.tolist() == pytest.approx([math.exp(-0.3), math.exp(2)], rel=1e-14)


def test_alpha_joins_the_two_kls() -> None:
    ratio = torch.tensor([-2.0, 0.5, 3.0], dtype=torch.float64)
    torch.testing.assert_close(alpha_divergence(ratio, 1e-9), reverse_kl(ratio), rtol=1e-7, atol=0)
    torch.testing.assert_close(alpha_divergence(ratio, 1.0), forward_kl(ratio))


@pytest.mark.parametrize("alpha", [0.0, 1.1])
def test_alpha_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=f"found {alpha}"):
        alpha_divergence(torch.zeros(1), alpha)


def test_it_is_in_the_reward_and_in_the_loss() -> None:
    zero, ratio = torch.zeros(1), torch.tensor([4.0]).log()
    assert implicit_reward(ratio, zero, beta=2.0, divergence=forward_kl).item() == pytest.approx(1.5)
    loss = dpo_loss(ratio, zero, zero, zero, beta=2.0, divergence=forward_kl)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1.5)))
