"""The real ExpertIterationModule in Lightning's Trainer lands on the distributions that are known on paper.

The policies are tables (tests/tabular.py), so nothing but the library stands between the start and the optimum.
What is imitated is drawn anew in each iteration, so that at the end there is the noise of the last iterations' draws
left: N of them give a distribution over V responses to about V / 2N nats. The distances are KL(target‖reached), which
is what imitation makes small, where the target is next to 0 somewhere.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_rlhf import ExpertIterationModule
from lit_rlhf.metrics.best_of_n import best_of_n_probabilities
from lit_rlhf.ops.kl import exact_kl
from tests.modules.training import quiet_trainer
from tests.tabular import TablePolicy, letters
from tests.test_closed_form import BETA, REFERENCE, REWARD, optimum, sequence_reference, sequence_tables
from tests.test_ppo_closed_form import OnePrompt, judge, pay, whole

BEST_OF_N = next(
    case
    for case in json.loads((Path(__file__).parent / "golden" / "vectors.json").read_text())["cases"]
    if case["name"] == "analytic/best_of_n_6"
)
SOLUTIONS = {solution["n"]: solution for solution in BEST_OF_N["outputs"]["solutions"]}
SLOW = pytest.mark.slow
SIX = torch.tensor(BEST_OF_N["inputs"]["reward"], dtype=torch.float64)
FROM = torch.tensor(BEST_OF_N["inputs"]["pi_ref"], dtype=torch.float64).log()


def imitate(policy: TablePolicy, iterations: int, responses: int, updates: int, **settings: Any) -> Tensor:
    """Train the table with Adam, whose rate falls to 0 as the square of what is left to do.

    Args:
        policy: the start, and what the reference is a copy of.
        iterations: rollouts.
        responses: drawn in each.
        updates: of each; the minibatches are as large as that makes them.
        settings: of the module.
    """
    samples, rate = settings["samples_per_prompt"], settings.pop("learning_rate", 0.4)
    learnt = samples if settings["method"] == "reward_weighted" else settings.get("keep", 1)

    def adam(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.99))

    def fall(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        left = iterations * updates
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: (1 - update / left) ** 2)

    module = ExpertIterationModule(
        policy,
        tokenizer=letters(policy.config.vocab_size),
        max_new_tokens=policy.config.longest,
        minibatch_size=responses // samples * learnt // updates,
        attention="padded",
        optimizer=adam,
        scheduler=fall,
        seed=0,
        **settings,
    )
    trainer = quiet_trainer(max_epochs=iterations, log_every_n_steps=10_000)
    trainer.fit(module, datamodule=OnePrompt(responses // samples))
    assert trainer.global_step == iterations * updates
    return policy.table


# ------------------------------------------------------------------------------------- reward-weighted regression


def weighted(iterations: int, responses: int, **settings: Any) -> Tensor:
    """Log-probabilities of toy A's eight arms."""
    policy = TablePolicy(REFERENCE[None], longest=1)
    return imitate(
        policy, iterations, responses, 4, reward=pay, method="reward_weighted", beta=BETA, **settings
    )[0]


def test_reward_weighted_reaches_the_optimum_of_ppo_and_dpo() -> None:
    """128 responses understate Z's best by 6e-4 nats; 2e4 draws, a third of them by weight, leave as much again."""
    reached = weighted(16, 2048, samples_per_prompt=128)
    assert exact_kl(reached, optimum()).item() < 5e-3
    assert exact_kl(reached, REFERENCE).item() == pytest.approx(0.7275, abs=0.06)


def own_optimum(samples: int) -> Tensor:
    """log of π_ref·E[e^{r/β} / mean of e^{r/β} over the prompt], over all that the other responses can be."""
    strength, reference = (REWARD / BETA).exp(), REFERENCE.exp()
    expected = torch.zeros_like(strength)
    for others in itertools.combinations_with_replacement(range(len(strength)), samples - 1):
        counts = [others.count(arm) for arm in range(len(strength))]
        orders = math.factorial(samples - 1) / math.prod(map(math.factorial, counts))
        chance = orders * math.prod(reference[arm].item() for arm in others)
        expected += chance * samples * strength / (strength + sum(strength[arm] for arm in others))
    return (reference * expected).log()


def test_with_few_responses_it_ends_where_their_mean_says() -> None:
    """Of 4: 0.13 nats from the optimum, and no noise of ours."""
    own = own_optimum(4)
    assert exact_kl(own, optimum()).item() == pytest.approx(0.1304, abs=1e-4)
    reached = weighted(16, 1024, samples_per_prompt=4)
    assert exact_kl(reached, own).item() < 5e-3
    assert exact_kl(reached, optimum()).item() == pytest.approx(0.1304, abs=0.05)


# ----------------------------------------------------------------------------------------------------- best-of-n


def pay_six(prompts: Any, completions: Any, completion_ids: list[list[int]], **columns: Any) -> list[float]:
    return [SIX[ids[0]].item() for ids in completion_ids]


def six(iterations: int, responses: int, updates: int, **settings: Any) -> Tensor:
    """Log-probabilities of the six responses of the vectors."""
    return imitate(
        TablePolicy(FROM[None], longest=1), iterations, responses, updates, reward=pay_six, **settings
    )[0]


def published(n: int) -> Tensor:
    return torch.tensor(SOLUTIONS[n]["pi"], dtype=torch.float64).log()


@pytest.mark.parametrize("n", [pytest.param(2, marks=SLOW), 4, pytest.param(16, marks=SLOW)])
def test_best_of_n_reaches_the_published_distribution(n: int) -> None:
    reached = six(12, 192 * n, 16, method="best_of_n", samples_per_prompt=n, learning_rate=0.6)
    assert exact_kl(published(n), reached).item() < 5e-3
    assert (reached.exp() @ SIX).item() == pytest.approx(SOLUTIONS[n]["expected_reward"], abs=0.05)


def test_the_best_two_of_three_are_both_learnt() -> None:
    order, chances = SIX.argsort(descending=True), FROM.exp()
    place = order.argsort()
    expected = torch.zeros_like(chances)
    for drawn in itertools.product(range(6), repeat=3):
        for arm in sorted(drawn, key=lambda arm: place[arm].item())[:2]:
            expected[arm] += 0.5 * chances[list(drawn)].prod()
    reached = six(12, 576, 8, method="best_of_n", samples_per_prompt=3, keep=2)
    assert exact_kl(expected.log(), reached).item() < 5e-3


def test_raft_gives_the_best_response_and_no_other() -> None:
    reached = six(16, 256, 4, method="raft", samples_per_prompt=8)
    assert reached.exp()[SIX.argmax()].item() > 0.99


@pytest.mark.slow
def test_best_of_n_from_a_reference_that_moves_once_is_best_of_n_of_best_of_n() -> None:
    """The best of two that are each the best of two is the best of four."""
    settings: dict[str, Any] = {"method": "best_of_n", "samples_per_prompt": 2, "reference": {"every": 10}}
    reached = six(20, 1024, 4, **settings)
    assert exact_kl(published(4), reached).item() < 0.03
    assert exact_kl(published(4), published(2)).item() > 0.1


# ------------------------------------------------------------- 121 sequences over three letters and an EOS


def sequences(iterations: int, responses: int, updates: int, **settings: Any) -> Tensor:
    """Log-probability of each of the 121 sequences of toy B."""
    policy = TablePolicy(sequence_reference(), longest=4)
    return whole(imitate(policy, iterations, responses, updates, reward=judge, **settings))


def test_long_and_short_sequences_weigh_the_same() -> None:
    """A mean over each one's tokens would have best-of-n's distribution divided by their number as its optimum."""
    _, _, mask, scores = sequence_tables()
    expected = best_of_n_probabilities(whole(sequence_reference()).exp(), scores, 4).log()
    by_token = (expected - mask.sum(1).log()).log_softmax(0)
    reached = sequences(12, 2048, 8, method="best_of_n", samples_per_prompt=4, learning_rate=0.6)
    assert exact_kl(expected, reached).item() < 0.03
    assert exact_kl(by_token, reached).item() > 0.05


@pytest.mark.slow
def test_reward_weighted_sequences_reach_the_optimum() -> None:
    """At β = 0.3; with 256 responses to a prompt, of which some 40 count, and 1e5 in all."""
    scores = sequence_tables()[3]
    best = (whole(sequence_reference()) + scores / 0.3).log_softmax(0)
    settings: dict[str, Any] = {"method": "reward_weighted", "beta": 0.3, "samples_per_prompt": 256}
    reached = sequences(30, 4096, 16, learning_rate=0.8, **settings)
    assert exact_kl(reached, best).item() < 0.015
    assert (reached.exp() @ scores).item() == pytest.approx(0.6027, abs=0.015)
