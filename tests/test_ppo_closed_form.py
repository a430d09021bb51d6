"""The real PPOModule in Lightning's Trainer lands on the policies that are known on paper.

The policies are tables (tests/tabular.py), so nothing but the library stands between the start and the
optimum: its sampler, rewards, advantages, losses and loop. E[r] - β·KL(π‖π_ref) over a finite set of
responses is largest at π* = π_ref·e^{r/β} / Z. With the KL as k1 in the reward a policy at π* is paid the
same for every response, so the noise of sampling dies out there, and few responses are enough.
"""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from lit_rlhf.modules.ppo import PPOModule
from lit_rlhf.ops.kl import exact_kl
from lit_rlhf.ops.logprobs import token_logprobs
from lit_rlhf.ops.masking import masked_sum
from lit_rlhf.records import Row
from tests.modules.training import quiet_trainer
from tests.tabular import TablePolicy, letters
from tests.test_closed_form import (
    BETA,
    END,
    PREFIXES,
    REFERENCE,
    REWARD,
    WORTH,
    optimum,
    sequence_reference,
    sequence_tables,
)


class OnePrompt(L.LightningDataModule):
    max_prompt_tokens = None

    def __init__(self, prompts: int) -> None:
        super().__init__()
        self.batch_size = prompts

    def train_dataloader(self) -> Any:
        return self.trainer.lightning_module.rollout_loader([Row("a")])


def fit_table(policy: TablePolicy, iterations: int, responses: int, **settings: Any) -> None:
    """Train the table with Adam, whose rate falls to 0 as the square of what is left to do."""
    learning_rate = settings.pop("learning_rate")
    settings = {"epochs": 4, "minibatch_size": 128, "samples_per_prompt": responses, **settings}
    updates = iterations * settings["epochs"] * responses // settings["minibatch_size"]

    def adam(parameters: Any) -> torch.optim.Optimizer:
        # with a short memory: gradients are large at first, and rare for rare responses
        return torch.optim.Adam(parameters, lr=learning_rate, betas=(0.8, 0.95))

    def fall(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: (1 - update / updates) ** 2)

    module = PPOModule(
        policy,
        tokenizer=letters(policy.config.vocab_size),
        max_new_tokens=policy.config.longest,
        value_clip_range=None,
        value_coef=1.0,
        attention="padded",
        optimizer=adam,
        scheduler=fall,
        seed=0,
        **settings,
    )
    trainer = quiet_trainer(max_epochs=iterations, log_every_n_steps=10_000)
    trainer.fit(module, datamodule=OnePrompt(responses // settings["samples_per_prompt"]))
    assert trainer.global_step == updates


# ------------------------------------------------------------------------------------ a bandit of eight arms


def pay(prompts: Any, completions: Any, completion_ids: list[list[int]], **columns: Any) -> list[float]:
    return [REWARD[ids[0]].item() for ids in completion_ids]


def bandit(iterations: int = 20, responses: int = 512, **settings: Any) -> Tensor:
    """Log-probabilities of the arms after training."""
    policy = TablePolicy(REFERENCE[None], longest=1)
    settings = {"reward": pay, "kl_coef": BETA, "learning_rate": 0.2, **settings}
    fit_table(policy, iterations, responses, **settings)
    return policy.table[0]


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({}, 1e-3),
        ({"level": "sequence", "whiten_advantages": False}, 1e-3),
        ({"advantage": "reinforce", "whiten_advantages": False}, 2e-3),
        ({"advantage": "rloo", "samples_per_prompt": 4}, 2e-3),
    ],
    ids=["ppo", "ppo over whole responses", "reinforce", "rloo"],
)
def test_the_bandit_reaches_its_optimum(settings: dict[str, Any], tolerance: float) -> None:
    reached = bandit(**settings)
    assert exact_kl(reached, optimum()).item() < tolerance
    assert exact_kl(reached, REFERENCE).item() == pytest.approx(0.7275, abs=0.05)  # where it started: 0


KL_IN_LOSS: dict[str, Any] = {
    "advantage": "reinforce",
    "kl_in": "loss",
    "whiten_advantages": False,
    "epochs": 1,
    "responses": 1024,
}
"""Here responses at the optimum are not paid the same, so a rollout is seen once, and there are more of them."""


def test_k2_in_the_loss_reaches_the_optimum() -> None:
    reached = bandit(kl_estimator="k2", iterations=40, **KL_IN_LOSS)
    assert exact_kl(reached, optimum()).item() < 2e-3


def test_k3_in_the_loss_reaches_its_own_fixed_point_and_not_the_optimum() -> None:
    reached = bandit(kl_estimator="k3", iterations=25, **KL_IN_LOSS)
    # π = β·π_ref / (λ - r), with λ such that it sums to 1; E[r] and KL(π‖π_ref) worked out from it.
    assert (reached.exp() @ REWARD).item() == pytest.approx(1.5130, abs=0.02)
    assert exact_kl(reached, REFERENCE).item() == pytest.approx(2.1314, abs=0.02)
    assert exact_kl(reached, optimum()).item() > 0.5


@pytest.mark.slow
def test_whitened_advantages_weigh_a_kl_in_the_loss_by_their_deviation() -> None:
    """In the reward the price is divided along with the score; in the loss it stays what it is."""
    settings = {**KL_IN_LOSS, "whiten_advantages": True, "kl_estimator": "k2"}
    reached = bandit(iterations=60, kl_coef=1.0, **settings)
    weighed = 0.5
    for _ in range(100):  # β' = β·std of the score under the policy that β' leads to
        weighed = deviation(optimum(weighed))
    assert weighed == pytest.approx(0.54, abs=0.02)
    assert exact_kl(reached, optimum(weighed)).item() < 2e-3
    assert exact_kl(reached, optimum(1.0)).item() > 0.08
    # At β = 0.5 there is no such β', and no leash: π* would be at 0.73 nats.
    assert all(0.5 * deviation(optimum(number / 100)) < number / 100 for number in range(2, 200))
    assert exact_kl(bandit(iterations=40, **settings), REFERENCE).item() > 1.5


def deviation(logprobs: Tensor) -> float:
    mean = logprobs.exp() @ REWARD
    return (logprobs.exp() @ (REWARD - mean).square()).sqrt().item()


# --------------------------------------------------------------- 121 sequences over three letters and an EOS


def judge(prompts: Any, completions: Any, completion_ids: list[list[int]], **columns: Any) -> list[float]:
    return [
        sum(WORTH[token] for token in ids if token != END) + (0.3 if ids[-1] == END else -1.0)
        for ids in completion_ids
    ]


def whole(table: Tensor) -> Tensor:
    """Log-probability of each of the 121 sequences."""
    prefix_index, tokens, mask, _ = sequence_tables()
    return masked_sum(token_logprobs(table[prefix_index], tokens), mask, dim=1)


def sequences(iterations: int = 60, **settings: Any) -> Tensor:
    """Log-probability of each of the 121 sequences after training at β = 0.3."""
    policy = TablePolicy(sequence_reference(), longest=4)
    settings = {"minibatch_size": 512, "epochs": 1, "learning_rate": 0.1, "kl_coef": 0.3, **settings}
    fit_table(policy, iterations, responses=2048, reward=judge, **settings)
    return whole(policy.table)


def check_optimal(reached: Tensor) -> None:
    scores = sequence_tables()[3]
    best = (whole(sequence_reference()) + scores / 0.3).log_softmax(0)
    assert exact_kl(reached, best).item() < 5e-3
    assert (reached.exp() @ scores).item() == pytest.approx(0.6027, abs=0.01)


CRITIC: dict[str, Any] = {"critic_warmup": 4, "critic_learning_rate": 0.1}


@pytest.mark.parametrize("lam", [pytest.param(1.0, marks=pytest.mark.slow), 0.95])
def test_ppo_over_sequences_reaches_the_optimum(lam: float) -> None:
    """Catches an EOS masked out, a score in the wrong place, a mean of the KL for its sum, wrong truncation."""
    check_optimal(sequences(lam=lam, **CRITIC))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"level": "sequence", **CRITIC},
        {"advantage": "rloo", "samples_per_prompt": 4},
        {"advantage": "reinforce"},
    ],
    ids=["whole responses", "rloo", "reinforce"],
)
def test_its_relatives_reach_it_too(settings: dict[str, Any]) -> None:
    check_optimal(sequences(iterations=100, **settings))


K2_IN_LOSS: dict[str, Any] = {
    "kl_in": "loss",
    "kl_estimator": "k2",
    "whiten_advantages": False,
}


@pytest.mark.slow
def test_k2_of_whole_responses_in_the_loss_reaches_the_optimum() -> None:
    check_optimal(sequences(iterations=150, advantage="reinforce", level="sequence", **K2_IN_LOSS))


@pytest.mark.slow
def test_k2_of_single_tokens_in_the_loss_ends_elsewhere() -> None:
    """What a token will make later tokens cost is left out: π(a|s) = π_ref(a|s)·e^{Q(s,a)/β} / Z(s)."""
    reached = sequences(iterations=150, lam=1.0, **K2_IN_LOSS, **CRITIC)
    expected = whole(token_wise_fixed_point(0.3))
    best = (whole(sequence_reference()) + sequence_tables()[3] / 0.3).log_softmax(0)
    assert exact_kl(reached, expected).item() < 5e-3
    assert exact_kl(expected, best).item() > 0.02


def token_wise_fixed_point(beta: float) -> Tensor:
    """Logits ``[prefixes, V]``, from the longest prefix back to the empty one."""
    logits = sequence_reference().log_softmax(1)
    worth: dict[tuple[int, ...], float] = {}
    for index in reversed(range(len(PREFIXES))):
        prefix = PREFIXES[index]
        so_far = sum(WORTH[token] for token in prefix)
        ends = [so_far + WORTH[token] - 1.0 for token in range(END)]  # the fourth letter, and no EOS
        on = [worth.get((*prefix, token), ends[token]) for token in range(END)]
        to_come = torch.tensor([*on, so_far + 0.3], dtype=torch.float64)
        logits[index] = (logits[index] + to_come / beta).log_softmax(0)
        worth[prefix] = (logits[index].exp() @ to_come).item()
    return logits
