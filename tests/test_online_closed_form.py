"""The real OnlineDPOModule in Lightning's Trainer lands on the policy that is known on paper.

Its judges are annotators of Bradley-Terry: they see the reward of each response with Gumbel noise of scale 1, so that
the better one wins with probability σ(r − r'). Whatever draws the pairs, DPO's optimum is then π_ref·e^{r/β} / Z.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lit_rlhf.modules.online_dpo import OnlineDPOModule
from lit_rlhf.ops.kl import exact_kl
from tests.modules.training import quiet_trainer
from tests.tabular import TablePolicy, letters
from tests.test_closed_form import BETA, REFERENCE, REWARD, optimum
from tests.test_ppo_closed_form import OnePrompt

NEVER = -30.0
LOGITS = torch.cat([torch.full((2,), NEVER), REFERENCE, torch.full((1,), NEVER)])
"""The arms are ``c`` to ``j``: BOS, pad and EOS stand around them, which have no text that could be judged."""


def worth(prompts: Any, completions: list[str], **columns: Any) -> list[float]:
    """Of the arms by their letters."""
    return [REWARD[ord(text) - ord("c")].item() for text in completions]


MINIBATCH = 64


def online(iterations: int, prompts: int, **settings: Any) -> Tensor:
    """Log-probabilities of the arms after training."""
    policy = TablePolicy(LOGITS[None], longest=1)

    samples = settings.setdefault("samples_per_prompt", 2)
    updates = iterations * samples * prompts // MINIBATCH

    def adam(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=0.1, betas=(0.8, 0.95))

    def fall(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: (1 - update / updates) ** 2)

    module = OnlineDPOModule(
        policy, tokenizer=letters(len(LOGITS)), max_new_tokens=1, attention="padded", beta=BETA,
        minibatch_size=MINIBATCH, optimizer=adam, scheduler=fall, seed=0, **settings,
    )  # fmt: skip
    quiet_trainer(max_epochs=iterations, log_every_n_steps=10_000).fit(module, datamodule=OnePrompt(prompts))
    return policy.table[0][2:-1]


BRADLEY_TERRY = {"annotator": {"annotator": "tests.test_online_closed_form.worth", "temperature": 1.0}}


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="pairs"),
        pytest.param({"samples_per_prompt": 4}, id="all pairs of four", marks=pytest.mark.slow),
        pytest.param(
            {"samples_per_prompt": 4, "loss": "plackett_luce"}, id="rankings of four", marks=pytest.mark.slow
        ),
    ],
)
def test_the_bandit_reaches_its_optimum(settings: dict[str, Any]) -> None:
    samples = settings.get("samples_per_prompt", 2)
    reached = online(30, 512 // samples, **BRADLEY_TERRY, **settings)
    assert exact_kl(reached, optimum()).item() < 0.03
    assert exact_kl(REFERENCE, optimum()).item() > 0.5, "it has a way to go"


def test_a_judge_that_never_errs_takes_the_policy_past_it() -> None:
    """A negative control: the same pairs without the noise have their optimum at infinity."""
    reached = online(30, 256, reward=worth)
    assert exact_kl(reached, optimum()).item() > 0.3
    assert (reached.exp() @ REWARD).item() > (optimum().exp() @ REWARD).item()
