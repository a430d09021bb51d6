"""PPO and DPO, built from the library's own pieces, reach the optimum that is known on paper.

The objective E[r] - β·KL(π‖π_ref) over a finite set of responses has the maximum
π* = π_ref·e^{r/β} / Z. The policies here are tables of logits, so nothing but the losses, the KL
estimators and the advantages stands between the start and π*.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lit_rlhf.losses.policy import clipped_policy_loss, clipped_value_loss
from lit_rlhf.losses.preference import dpo_loss, implicit_reward
from lit_rlhf.ops.advantages import generalized_advantages, kl_penalized_rewards
from lit_rlhf.ops.kl import exact_kl, k1, k2, k3
from lit_rlhf.ops.logprobs import token_logprobs
from lit_rlhf.ops.masking import masked_mean, masked_sum, masked_whiten

REWARD = torch.tensor([1.0, 0.5, 0.0, -0.5, -1.0, 2.0, 0.25, -2.0], dtype=torch.float64)
REFERENCE = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -1.0, -0.5, 1.0], dtype=torch.float64).log_softmax(0)
BETA = 0.5

Estimator = Callable[[Tensor, Tensor], Tensor]


def optimum(beta: float = BETA) -> Tensor:
    """log π* of the bandit with eight arms."""
    return (REFERENCE + REWARD / beta).log_softmax(0)


def distance(logits: Tensor, target: Tensor | None = None) -> float:
    """KL(π‖π*) in nats."""
    return exact_kl(logits.detach(), optimum() if target is None else target).item()


def linear_decay(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)


@pytest.mark.parametrize(
    ("beta", "kl", "expected_reward", "objective"),
    [
        (0.25, 2.501273, 1.699542, 1.074224),
        (0.5, 0.727502, 1.100641, 0.736890),
        (1.0, 0.258724, 0.784958, 0.526233),
    ],
)
def test_the_optimum_has_the_published_numbers(
    beta: float, kl: float, expected_reward: float, objective: float
) -> None:
    best = optimum(beta)
    price = k1(best, REFERENCE)[:, None]
    rewards = kl_penalized_rewards(REWARD, price, torch.ones_like(price, dtype=torch.bool), beta)
    assert exact_kl(best, REFERENCE).item() == pytest.approx(kl, abs=1e-6)
    assert (best.exp() @ REWARD).item() == pytest.approx(expected_reward, abs=1e-6)
    assert (best.exp() @ rewards[:, 0]).item() == pytest.approx(objective, abs=1e-6)
    # r - r̂ is β·log Z for every arm, and that is the objective.
    constant = REWARD - implicit_reward(best, REFERENCE, beta)
    assert constant.tolist() == pytest.approx([objective] * 8, abs=1e-6)


def test_ppo_reaches_the_optimum() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = REFERENCE.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.02)
    iterations, samples = 300, 512
    schedule = linear_decay(optimizer, 4 * iterations)
    mask = torch.ones(samples, 1, dtype=torch.bool)
    value = torch.zeros((), dtype=torch.float64)
    for _ in range(iterations):
        with torch.no_grad():
            arms = torch.multinomial(logits.softmax(0), samples, True, generator=generator)[:, None]
            old = token_logprobs(logits.expand(samples, 1, -1), arms)
            rewards = kl_penalized_rewards(REWARD[arms[:, 0]], k1(old, REFERENCE[arms]), mask, BETA)
            advantages, returns = generalized_advantages(value.expand(samples, 1), rewards, mask, 1.0, 0.95)
            value = 0.9 * value + 0.1 * returns.mean()
            advantages = masked_whiten(advantages, mask)
        for _ in range(4):
            optimizer.zero_grad()
            logprobs = token_logprobs(logits.expand(samples, 1, -1), arms)
            masked_mean(clipped_policy_loss(logprobs, old, advantages, 0.2), mask).backward()
            optimizer.step()
            schedule.step()
    assert distance(logits) < 1e-3


def train_with_kl_as_loss(estimator: Estimator) -> Tensor:
    """Policy gradient on the plain reward, plus β times the estimator as a loss; exact expectations."""
    logits = REFERENCE.clone().requires_grad_()
    steps = 1500
    optimizer = torch.optim.Adam([logits], lr=0.05)
    schedule = linear_decay(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        logprobs = logits.log_softmax(0)
        probability = logprobs.detach().exp()
        advantages = REWARD - probability @ REWARD
        policy = clipped_policy_loss(logprobs, logprobs.detach(), advantages, 0.2)
        (probability @ (policy + BETA * estimator(logprobs, REFERENCE))).backward()
        optimizer.step()
        schedule.step()
    return logits.detach()


def test_k2_as_a_loss_reaches_the_optimum() -> None:
    assert distance(train_with_kl_as_loss(k2)) < 2e-3


def test_k1_as_a_loss_does_not_reach_the_optimum() -> None:
    logits = train_with_kl_as_loss(k1)
    assert distance(logits) > 1
    assert exact_kl(logits, REFERENCE).item() > 3  # no leash at all: the best arm takes everything


def test_k3_as_a_loss_reaches_its_own_fixed_point() -> None:
    logits = train_with_kl_as_loss(k3)
    # π = β·π_ref / (λ - r), with λ such that it sums to 1; E[r] and KL(π‖π_ref) worked out from it.
    assert (logits.softmax(0) @ REWARD).item() == pytest.approx(1.5130, abs=0.02)
    assert exact_kl(logits, REFERENCE).item() == pytest.approx(2.1314, abs=0.02)
    assert distance(logits) > 0.5


@pytest.mark.parametrize(
    ("estimator", "divergence"),
    [
        (k1, lambda logits, reference: 0 * logits.sum()),
        (k2, lambda logits, reference: exact_kl(logits, reference)),
        (k3, lambda logits, reference: exact_kl(reference, logits)),
    ],
    ids=["k1: none", "k2: KL(policy, reference)", "k3: KL(reference, policy)"],
)
def test_expected_gradient_of_each_estimator_as_a_loss(
    estimator: Estimator, divergence: Callable[[Tensor, Tensor], Tensor]
) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(5, generator=generator, dtype=torch.float64).log_softmax(0)
    logprobs = logits.log_softmax(0)
    loss = (logprobs.detach().exp() * estimator(logprobs, reference)).sum()
    (found,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (expected,) = torch.autograd.grad(divergence(logits, reference), logits)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def fit_dpo(better: Tensor, worse: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """Logits that minimise the weighted DPO loss over the given pairs of arms."""
    logits = REFERENCE.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logprobs = logits.log_softmax(0)
        pairs = (logprobs[better], logprobs[worse], REFERENCE[better], REFERENCE[worse])
        loss = (weight * dpo_loss(*pairs, beta=BETA, target=target)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits.detach()


def test_dpo_reaches_the_optimum_on_the_population_of_pairs() -> None:
    better, worse = torch.cartesian_prod(torch.arange(8), torch.arange(8)).T
    drawn = (REFERENCE[better] + REFERENCE[worse]).exp()
    preferred = torch.sigmoid(REWARD[better] - REWARD[worse])
    assert distance(fit_dpo(better, worse, drawn, preferred)) < 1e-8


def test_dpo_comes_close_to_the_optimum_on_sampled_pairs() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.multinomial(REFERENCE.exp(), 200_000, True, generator=generator).view(2, -1)
    first, second = first[first != second], second[first != second]
    chance = torch.sigmoid(REWARD[first] - REWARD[second])
    wins = torch.rand(len(first), generator=generator, dtype=torch.float64) < chance
    better, worse = torch.where(wins, first, second), torch.where(wins, second, first)
    # Equal pairs have equal losses, so each kind is computed once and weighted by its count.
    kinds, count = torch.stack([better, worse]).unique(dim=1, return_counts=True)
    weight = count.double() / count.sum()
    logits = fit_dpo(kinds[0], kinds[1], weight, torch.ones_like(weight))
    assert distance(logits) < 1e-2
    implied = implicit_reward(logits.log_softmax(0), REFERENCE, BETA)
    assert (implied - REWARD).std().item() < 0.1


# ------------------------------------------------------------------------------- sequences with an EOS

LETTERS, END, LONGEST = 3, 3, 4
WORTH = (0.5, -0.25, 0.1)
PREFIXES = [word for n in range(LONGEST) for word in itertools.product(range(LETTERS), repeat=n)]
SEQUENCES = [(*word, END) for word in PREFIXES] + list(itertools.product(range(LETTERS), repeat=LONGEST))
"""40 that end, and 81 cut off at four letters."""


def sequence_tables() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per sequence the index of each prefix, the tokens, the mask, each ``[121, 4]``, and the scores."""
    shape = (len(SEQUENCES), LONGEST)
    prefixes, tokens = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.bool)
    for i, sequence in enumerate(SEQUENCES):
        for t, token in enumerate(sequence):
            prefixes[i, t], tokens[i, t], mask[i, t] = PREFIXES.index(sequence[:t]), token, True
    scores = [sum(WORTH[t] for t in s if t != END) + (0.3 if s[-1] == END else -1.0) for s in SEQUENCES]
    return prefixes, tokens, mask, torch.tensor(scores, dtype=torch.float64)


def sequence_reference() -> Tensor:
    """Logits of an autoregressive policy with no structure, ``[40, 4]``: a row per prefix."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(PREFIXES), LETTERS + 1, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("lam", [1.0, 0.95])
def test_ppo_reaches_the_optimum_over_sequences(lam: float) -> None:
    beta, samples, iterations = 0.3, 512, 400
    prefixes, tokens, mask, scores = sequence_tables()
    reference_logits = sequence_reference()
    reference = token_logprobs(reference_logits[prefixes], tokens)
    reference_total = masked_sum(reference, mask, dim=1)
    best = (reference_total + scores / beta).log_softmax(0)
    assert (reference_total.exp() @ scores).item() == pytest.approx(0.1840, abs=1e-4)
    assert (best.exp() @ scores).item() == pytest.approx(0.6027, abs=1e-4)
    assert exact_kl(best, reference_total).item() == pytest.approx(0.7436, abs=1e-4)

    generator = torch.Generator().manual_seed(0)
    logits = reference_logits.clone().requires_grad_()
    critic = torch.zeros(len(PREFIXES), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [logits], "lr": 0.04}, {"params": [critic], "lr": 0.05}])
    schedule = linear_decay(optimizer, 4 * iterations)
    for _ in range(iterations):
        with torch.no_grad():
            all_logprobs = token_logprobs(logits[prefixes], tokens)
            chances = masked_sum(all_logprobs, mask, dim=1).exp()
            drawn = torch.multinomial(chances, samples, True, generator=generator)
            seen, old = mask[drawn], all_logprobs[drawn]
            rewards = kl_penalized_rewards(scores[drawn], k1(old, reference[drawn]), seen, beta)
            old_values = critic[prefixes[drawn]].clone()
            advantages, returns = generalized_advantages(old_values, rewards, seen, 1.0, lam)
            advantages = masked_whiten(advantages, seen)
        for _ in range(4):
            optimizer.zero_grad()
            logprobs = token_logprobs(logits[prefixes[drawn]], tokens[drawn])
            values = critic[prefixes[drawn]]
            policy = masked_mean(clipped_policy_loss(logprobs, old, advantages, 0.2), seen)
            value = masked_mean(clipped_value_loss(values, old_values, returns, None), seen)
            (policy + value).backward()
            optimizer.step()
            schedule.step()

    reached = masked_sum(token_logprobs(logits.detach()[prefixes], tokens), mask, dim=1)
    assert exact_kl(reached, best).item() < 5e-3
    assert (reached.exp() @ scores).item() == pytest.approx(0.6027, abs=0.01)
