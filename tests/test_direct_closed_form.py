"""Direct methods, with one free logit per response, find the policies that are known on paper.

The bandit of test_closed_form, with all its pairs and rankings in the proportions in which the reference draws
them and people judge them: nothing but the losses stands between the start and the optimum.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lit_rlhf.losses.differences import ipo_loss
from lit_rlhf.losses.divergences import Divergence, forward_kl, jensen_shannon, reverse_kl
from lit_rlhf.losses.preference import dpo_loss, implicit_reward, plackett_luce_dpo_loss, robust_dpo_loss
from lit_rlhf.losses.weights import reward_weights
from lit_rlhf.ops.kl import exact_kl
from tests.test_closed_form import BETA, REFERENCE, REWARD, distance, optimum

ARMS = len(REWARD)
BETTER, WORSE = torch.cartesian_prod(torch.arange(ARMS), torch.arange(ARMS)).T
"""The 64 ordered pairs of arms, an arm with itself among them."""
DRAWN = (REFERENCE[BETTER] + REFERENCE[WORSE]).exp()
PREFERRED = (REWARD[BETTER] - REWARD[WORSE]).sigmoid()


def minimum(objective: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Log-probabilities, the shape of `start`, where an objective of them is smallest."""
    logits = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=1000, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(logits.log_softmax(-1))
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits.detach().log_softmax(-1)


def on_pairs(logprobs: Tensor, reference: Tensor = REFERENCE) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return logprobs[BETTER], logprobs[WORSE], reference[BETTER], reference[WORSE]


@pytest.mark.parametrize("divergence", [reverse_kl, forward_kl, jensen_shannon])
def test_implicit_reward_is_the_reward_up_to_a_constant_of_the_prompt(divergence: Divergence) -> None:
    """Two prompts, which share neither rewards nor reference; under the price of each divergence."""
    references = torch.stack([REFERENCE, REFERENCE.roll(3)])
    rewards = torch.stack([REWARD, REWARD.flip(0) + 3])

    def objective(logprobs: Tensor) -> Tensor:
        losses = []
        for policy, reference, reward in zip(logprobs, references, rewards):
            preferred = (reward[BETTER] - reward[WORSE]).sigmoid()
            pair = on_pairs(policy, reference)
            drawn = (reference[BETTER] + reference[WORSE]).exp()
            losses.append(drawn @ dpo_loss(*pair, beta=BETA, target=preferred, divergence=divergence))
        return torch.stack(losses).sum()

    found = minimum(objective, references)
    left = rewards - implicit_reward(found, references, BETA, divergence)
    assert left.std(dim=1).max().item() < 1e-5
    assert (left[0].mean() - left[1].mean()).abs() > 1  # a constant, and each prompt has its own


def test_dpo_under_the_forward_kl_has_the_fixed_point_of_k3_as_a_loss() -> None:
    """π = β·π_ref / (λ - r): worked out in test_closed_form for another method with the same price."""
    found = minimum(
        lambda logprobs: (
            DRAWN @ dpo_loss(*on_pairs(logprobs), beta=BETA, target=PREFERRED, divergence=forward_kl)
        ),
        REFERENCE,
    )
    assert (found.exp() @ REWARD).item() == pytest.approx(1.5130, abs=1e-4)
    assert exact_kl(found, REFERENCE).item() == pytest.approx(2.1314, abs=1e-4)


@pytest.mark.parametrize(
    ("tau", "chance"), [(0.1, 0.993307), (0.5, 0.731059), (1.0, 0.622459), (5.0, 0.524979)]
)
def test_ipo_with_two_actions(tau: float, chance: float) -> None:
    """The first always wins, and the reference is uniform: π(y_1) = σ(1/2τ), where DPO would go to 1."""
    reference = torch.full((2,), 0.5, dtype=torch.float64).log()
    found = minimum(
        lambda logprobs: ipo_loss(logprobs[:1], logprobs[1:], reference[:1], reference[1:], tau).sum(),
        reference,
    )
    assert found[0].exp().item() == pytest.approx(chance, abs=1e-4)


def test_ipo_with_two_actions_and_votes() -> None:
    """h = (2p - 1)/(2τ)."""
    reference = torch.full((2,), 0.5, dtype=torch.float64).log()
    sides = reference[:1], reference[1:]
    found = minimum(lambda lp: ipo_loss(lp[:1], lp[1:], *sides, 0.5, target=0.75).sum(), reference)
    assert found[0].exp().item() == pytest.approx(1 / (1 + math.exp(-0.5)), abs=1e-6)


def test_robust_dpo_reaches_the_optimum_through_flipped_labels_and_dpo_does_not() -> None:
    flipped = 0.75 * PREFERRED + 0.25 * (1 - PREFERRED)
    robust = minimum(
        lambda logprobs: (
            DRAWN @ robust_dpo_loss(*on_pairs(logprobs), beta=BETA, flip_rate=0.25, target=flipped)
        ),
        REFERENCE,
    )
    plain = minimum(
        lambda logprobs: DRAWN @ dpo_loss(*on_pairs(logprobs), beta=BETA, target=flipped), REFERENCE
    )
    assert distance(robust) < 1e-8
    assert distance(plain) > 0.1


def test_reward_weighted_regression_reaches_the_optimum() -> None:
    """Fine-tuning on the reference's own responses, each as often as it is drawn."""
    weights = REFERENCE.exp() * reward_weights(REWARD, torch.zeros(ARMS, dtype=torch.long), BETA)
    found = minimum(lambda logprobs: -(weights @ logprobs), REFERENCE)
    assert distance(found) < 1e-8


def test_reward_weighted_regression_comes_close_on_samples() -> None:
    arms = torch.multinomial(REFERENCE.exp(), 100_000, True, generator=torch.Generator().manual_seed(2))
    weights = reward_weights(REWARD[arms], torch.zeros_like(arms), BETA)
    assert weights.mean().item() == pytest.approx(1)
    totals = torch.zeros(ARMS, dtype=torch.float64).index_add(0, arms, weights)  # its likelihood's maximum
    assert exact_kl((totals / totals.sum()).log(), optimum()).item() < 1e-3


def test_rankings_reach_the_optimum() -> None:
    """Three responses of the reference, ordered by people whose every choice is Bradley-Terry."""
    arms = torch.tensor(list(itertools.product(range(ARMS), repeat=3)))
    best_first = arms[(arms.diff(dim=1) != 0).all(dim=1) & (arms[:, 0] != arms[:, 2])]
    rewards = REWARD[best_first]
    chance = (rewards.sum(dim=1) - rewards[:, 1:].logsumexp(dim=1) - rewards.logsumexp(dim=1)).exp()
    chance = chance / rewards[:, 2].exp()  # the last is no choice
    weight = REFERENCE[best_first].sum(dim=1).exp() * chance
    ranks = torch.arange(1.0, 4.0, dtype=torch.float64).repeat(len(best_first))
    tree = torch.arange(len(best_first)).repeat_interleave(3)
    reference = REFERENCE[best_first.flatten()]

    def objective(logprobs: Tensor) -> Tensor:
        policy = logprobs[best_first.flatten()]
        return weight @ plackett_luce_dpo_loss(policy, reference, ranks, tree, BETA, "drop")

    assert distance(minimum(objective, REFERENCE)) < 1e-8


def test_gradients_of_rankings_of_two_are_those_of_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(6, 2, generator=generator, dtype=torch.float64).log_softmax(1)
    ranks = torch.tensor([[1.0, 2], [2, 1], [1, 2], [2, 1], [1, 2], [1, 2]])
    logprobs, tree = logits.log_softmax(1), torch.arange(6).repeat_interleave(2)
    listwise = plackett_luce_dpo_loss(
        logprobs.flatten(), reference.flatten(), ranks.flatten(), tree, BETA, "drop"
    )
    best_first = ranks.argsort(dim=1)
    better, worse = logprobs.gather(1, best_first).T
    pairwise = dpo_loss(better, worse, *reference.gather(1, best_first).T, beta=BETA)
    torch.testing.assert_close(listwise, pairwise, rtol=0, atol=1e-14)
    weights = torch.arange(1.0, 7.0, dtype=torch.float64)
    (found,) = torch.autograd.grad(weights @ listwise, logits, retain_graph=True)
    (expected,) = torch.autograd.grad(weights @ pairwise, logits)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_a_ranking_at_the_reference_costs_log_k_factorial() -> None:
    reference, ranks = REFERENCE[:4], torch.tensor([3.0, 1.0, 4.0, 2.0])
    tree = torch.zeros(4, dtype=torch.long)
    loss = plackett_luce_dpo_loss(reference, reference, ranks, tree, BETA, "drop")
    assert loss.item() == pytest.approx(math.log(24))
