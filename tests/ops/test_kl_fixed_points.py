"""Where a policy gradient with each KL price stands still, found by following it with exact expectations.

Eight arms, as in tests/test_closed_form.py; the losses of k1, k2 and k3 are followed there. Here the
price is inside the reward, or belongs to single tokens of longer responses.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lit_rlhf.ops.kl import exact_kl, k1, k2, k3

REWARD = torch.tensor([1.0, 0.5, 0.0, -0.5, -1.0, 2.0, 0.25, -2.0], dtype=torch.float64)
REFERENCE = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -1.0, -0.5, 1.0], dtype=torch.float64).log_softmax(0)
BETA = 0.5

Estimator = Callable[[Tensor, Tensor], Tensor]

SLOPES: dict[str, tuple[Estimator, Callable[[Tensor], Tensor]]] = {
    "k1": (k1, torch.ones_like),
    "k2": (k2, lambda rho: rho),
    "k3": (k3, lambda rho: 1 - (-rho).exp()),
}
"""Each estimator, and its derivative by the log-ratio."""


def velocity(logits: Tensor, reward: Tensor, reference: Tensor, estimator: Estimator) -> Tensor:
    """d logits/dt under gradient ascent on E[r - β·k], the price held constant."""
    logprobs = logits.log_softmax(-1)
    paid = reward - BETA * estimator(logprobs, reference)
    return logprobs.exp() * (paid - (logprobs.exp() * paid).sum(-1, keepdim=True))


def follow(
    start: Tensor, reward: Tensor, reference: Tensor, estimator: Estimator, steps: int, size: float
) -> Tensor:
    """The log-probabilities after so many steps along the velocity."""
    logits = start
    for _ in range(steps):
        logits = logits + size * velocity(logits, reward, reference, estimator)
    return logits.log_softmax(-1)


def test_k1_in_the_reward_stands_still_at_the_optimum_alone_and_goes_there() -> None:
    optimum = (REFERENCE + REWARD / BETA).log_softmax(0)
    torch.testing.assert_close(velocity(optimum, REWARD, REFERENCE, k1), torch.zeros_like(optimum))
    reached = follow(REFERENCE, REWARD, REFERENCE, k1, steps=3000, size=1.0)
    assert exact_kl(reached, optimum).item() < 1e-3


@pytest.mark.parametrize("name", ["k2", "k3"])
def test_k2_and_k3_in_the_reward_run_off_to_the_likeliest_arm(name: str) -> None:
    """And not to the best one, which is rare: what falls under the reference is charged for it, and falls."""
    estimator, _ = SLOPES[name]
    before = follow(REFERENCE, REWARD, REFERENCE, estimator, steps=2000, size=0.05)
    after = follow(before, REWARD, REFERENCE, estimator, steps=2000, size=0.05)
    assert before.exp()[0].item() > 0.995
    assert (after[1:] < before[1:]).all()  # and still falling
    assert (REWARD - BETA * estimator(after, REFERENCE)).argmax() == 0
    assert REWARD.argmax() != 0
    assert REFERENCE.argmax() == 0


@pytest.mark.parametrize("name", ["k2", "k3"])
@pytest.mark.parametrize("seed", range(4))
def test_the_condition_of_stability_is_that_of_the_jacobian(name: str, seed: int) -> None:
    """Random policies made stationary by the reward that makes them so: the sign of the slowest mode."""
    estimator, slope = SLOPES[name]
    generator = torch.Generator().manual_seed(seed)
    for arms in (2, 2, 3, 3, 4):
        policy, reference = torch.randn(2, arms, generator=generator, dtype=torch.float64).log_softmax(1)
        reward = 7.0 + BETA * estimator(policy, reference)  # r - β·k = 7 on every arm
        torch.testing.assert_close(velocity(policy, reward, reference, estimator), torch.zeros_like(policy))
        jacobian = torch.autograd.functional.jacobian(
            lambda logits, r=reward, q=reference: velocity(logits, r, q, estimator), policy
        )
        grows = torch.linalg.eigvals(jacobian).real.max().item() > 1e-9
        probability, weight = policy.exp(), slope(policy - reference)
        negative = int((weight < 0).sum())
        stable = negative == 0 or (negative == 1 and (probability / weight).sum().item() < 0)
        assert grows == (not stable)
        assert negative <= 1 or grows


def test_one_arm_below_the_reference_may_stay() -> None:
    """The favoured of two arms is the rare one: k2's two-armed point is stable, and not the optimum."""
    reference, reward = torch.tensor([0.1, 0.9], dtype=torch.float64).log(), torch.tensor([0.3, 0.0]).double()
    reached = follow(reference, reward, reference, k2, steps=2000, size=1.0)
    log_ratio = reached - reference
    assert log_ratio[1] < 0 < log_ratio[0]
    paid = reward - BETA * k2(reached, reference)
    assert paid[0].item() == pytest.approx(paid[1].item(), abs=1e-6)
    assert (reached - (reference + reward / BETA).log_softmax(0)).abs().max() > 0.1


def test_k2_in_the_loss_of_tokens_leaves_out_what_later_tokens_will_cost() -> None:
    """Two tokens of three letters; the first decides whether the second one's reference is sharp."""
    generator = torch.Generator().manual_seed(2)
    first, second = torch.randn(3, generator=generator), 2 * torch.randn(3, 3, generator=generator)
    score = torch.randn(3, 3, generator=generator).double()
    first, second = first.double().log_softmax(0), second.double().log_softmax(1)
    logits = [first.clone().requires_grad_(), second.clone().requires_grad_()]
    optimizer = torch.optim.Adam(logits, lr=0.05)
    for step in range(3000):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 3000)
        optimizer.zero_grad()
        now = [logits[0].log_softmax(0), logits[1].log_softmax(1)]
        chance = (now[0][:, None] + now[1]).detach().exp()
        gain = score * (now[0][:, None] + now[1])  # its gradient is r·∇log π
        price = k2(now[0], first)[:, None] + k2(now[1], second)
        (chance * (BETA * price - gain)).sum().backward()
        optimizer.step()
    expected_second = (second + score / BETA).log_softmax(1)
    expected_first = (first + (expected_second.exp() * score).sum(1) / BETA).log_softmax(0)
    torch.testing.assert_close(logits[1].detach().log_softmax(1), expected_second, rtol=0, atol=1e-4)
    torch.testing.assert_close(logits[0].detach().log_softmax(0), expected_first, rtol=0, atol=1e-4)
    optimum = (first[:, None] + second + score / BETA).flatten().log_softmax(0)
    token_wise = (expected_first[:, None] + expected_second).flatten()
    assert exact_kl(token_wise, optimum).item() > 0.01
