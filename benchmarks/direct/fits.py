"""Fits of so many updates: the project's own modules and data modules, quiet, with a look on the way."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from benchmarks.direct.costs import Costs, bought
from benchmarks.direct.worlds import Ground
from benchmarks.reward_studies.cells import Result
from benchmarks.reward_studies.fits import quieten
from lit_rlhf import DPOModule, PairDataModule, PPOModule, PromptDataModule, RewardModule
from lit_rlhf.cli.demo.phases import adamw, warm_up_then_fall
from lit_rlhf.models.loading import load_causal_lm
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.modules.direct_methods import METHODS
from lit_rlhf.modules.expert_iteration import ExpertIterationModule
from lit_rlhf.modules.online_dpo import OnlineDPOModule
from lit_rlhf.rollout.shaping import ScoreShaping

MARKS = (0.2, 0.5)
"""Shares of its updates after which a long fit is looked at on the way."""
WARM_UP = 10
"""Updates over which the learning rate rises, before it falls to 0."""
RESPONSES = {"demo": 128, "blimp": 64, "debates": 64}
"""Of an iteration of PPO and of online DPO, by the world's kind."""
DRAWN = 256
"""Responses drawn in an iteration of the methods that learn from the reward alone."""
SAMPLED_RATE = 2.0
"""Learning rate of methods that draw samples, in units of that of the others: for a budget they get fewer updates."""
PASSES = 2
"""Over a rollout, of PPO and of the methods that learn from the reward alone; online DPO takes one."""
JUDGE = {"annotator": "lit_rlhf.world.gold.gold", "temperature": 1.0}
"""Of online DPO: the gold reward, with the noise of the given pairs' labeller."""

Fit = tuple[L.LightningModule, L.LightningDataModule]


@dataclass
class Trained:
    """A policy after its updates."""

    policy: PolicyNetwork
    updates: int
    looks: list[dict[str, Tensor]] = field(default_factory=list)
    """The weights at each of the marks."""


class Looks(L.Callback):
    """Keeps the policy's weights at each of the marks.

    Args:
        total: updates of the fit.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.weights: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, _: int) -> None:
        reached = len(self.weights)
        if reached < len(MARKS) and trainer.global_step >= MARKS[reached] * self.total:
            now = policy_of(module).state_dict()
            self.weights.append({name: value.detach().clone() for name, value in now.items()})


def policy_of(module: Any) -> PolicyNetwork:
    """The policy of a module, with a critic beside it or without."""
    network: PolicyNetwork = getattr(module.network, "policy", module.network)
    return network


def trainer(max_steps: int = -1, max_epochs: int = -1, callbacks: tuple[L.Callback, ...] = ()) -> L.Trainer:
    """Quiet, on one thread."""
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=max_steps,
        max_epochs=max_epochs,
        gradient_clip_val=1.0,
        logger=False,
        limit_val_batches=0,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def train(fit: Fit, updates: int, max_epochs: int = -1) -> Trained:
    """Train.

    Args:
        fit: module and data.
        updates: when to stop; where there are iterations, about how many they have.
        max_epochs: iterations, which are then what it stops by.
    """
    module, data = fit
    looks = Looks(updates)
    runner = trainer(updates if max_epochs < 0 else -1, max_epochs, (looks,))
    runner.fit(module, datamodule=data)
    return Trained(policy_of(module), runner.global_step, looks.weights)


# --- what is fitted -----------------------------------------------------------------------------------


def common(ground: Ground, updates: int, rate: float = 1.0) -> dict[str, Any]:
    """What every module is given; the learning rate is so many times that of the world."""
    quieten()
    torch.manual_seed(ground.seed)  # of new heads, whatever was drawn before
    return {
        "model": str(ground.start),
        "optimizer": adamw(rate * ground.world.learning_rate, epsilon=1e-5),
        "scheduler": warm_up_then_fall(updates, min(WARM_UP, max(1, updates // 4))),
    }


def pair_data(ground: Ground, pairs: str, **options: Any) -> PairDataModule:
    """A file of pairs."""
    size = ground.world.batch_size
    return PairDataModule(pairs, batch_size=size, seed=ground.seed, **ground.limits, **options)


def prompt_data(ground: Ground, prompts: int) -> PromptDataModule:
    """So many training prompts an iteration."""
    limit = ground.world.max_prompt_tokens
    file = ground.file("prompts", ground.prompts)
    return PromptDataModule(file, batch_size=prompts, seed=ground.seed, max_prompt_tokens=limit)


def direct_module(ground: Ground, options: Mapping[str, Any], updates: int) -> DPOModule:
    """A direct method."""
    return DPOModule(**common(ground, updates), seed=ground.seed, **options)


def reward_module(ground: Ground, updates: int) -> RewardModule:
    """A reward model, as the demo's but on a scale of unit variance whatever the data, so that a β means the same."""
    rate = adamw(4 * ground.world.learning_rate, 0.01)
    return RewardModule(**{**common(ground, updates), "optimizer": rate}, unit_variance=True)


def reward_updates(ground: Ground) -> int:
    """Of the reward model: one pass over the pairs, as in the demo."""
    return -(-len(ground.training) // ground.world.batch_size)


def learned_reward(ground: Ground, pairs: str, export: str) -> None:
    """A reward model from the pairs, exported."""
    module = reward_module(ground, reward_updates(ground))
    trainer(max_epochs=1).fit(module, datamodule=pair_data(ground, pairs))
    module.export(Path(export))


def ppo_fit(ground: Ground, options: Mapping[str, Any], reward: str, iterations: int) -> Fit:
    """PPO, with the settings of the demo."""
    responses = RESPONSES[ground.world.kind]
    rate, settings = options["rate"], {name: value for name, value in options.items() if name != "rate"}
    module = PPOModule(
        **common(ground, iterations * 2 * PASSES, rate),
        reward=reward,
        epochs=PASSES,
        minibatch_size=responses // 2,
        max_new_tokens=ground.world.max_response_tokens,
        value_coef=0.5,
        value_clip_range=0.5,
        critic_learning_rate=2 * rate * ground.world.learning_rate,
        shaping=ScoreShaping(missing_eos_score=-3.0) if ground.world.kind == "demo" else None,
        seed=ground.seed,
        **settings,
    )
    return module, prompt_data(ground, responses)


def online_fit(ground: Ground, beta: float, reward: str | None, iterations: int) -> Fit:
    """Online DPO on pairs of its own samples, judged by a reward model or labelled as the given pairs were."""
    responses = RESPONSES[ground.world.kind]
    judge: dict[str, Any] = {"annotator": JUDGE} if reward is None else {"reward": reward}
    module = OnlineDPOModule(
        **common(ground, iterations * 2, SAMPLED_RATE),
        beta=beta,
        minibatch_size=responses // 2,
        max_new_tokens=ground.world.max_response_tokens,
        seed=ground.seed,
        **judge,
    )
    return module, prompt_data(ground, responses // 2)


def expert_fit(ground: Ground, settings: Mapping[str, Any], reward: str, iterations: int) -> Fit:
    """A method that learns from the reward alone."""
    each = settings["samples_per_prompt"]
    learnt = DRAWN if settings["method"] == "reward_weighted" else DRAWN // each
    size = min(64, learnt)
    module = ExpertIterationModule(
        **common(ground, iterations * PASSES * (learnt // size), SAMPLED_RATE),
        reward=reward,
        epochs=PASSES,
        minibatch_size=size,
        max_new_tokens=ground.world.max_response_tokens,
        seed=ground.seed,
        **settings,
    )
    return module, prompt_data(ground, DRAWN // each)


# --- at equal cost ------------------------------------------------------------------------------------


def kind_of(loss: str) -> str:
    """By what its updates cost: what is computed for them."""
    return "kto" if loss == "kto" else "reference" if METHODS[loss].reference else "no_reference"


def direct(
    ground: Ground, costs: Costs, pairs: str, options: Mapping[str, Any], times: float = 1.0
) -> Trained:
    """A direct method on a file of pairs, for so many budgets."""
    updates = bought(costs, kind_of(options["loss"]), times * ground.budget)
    return train((direct_module(ground, options, updates), pair_data(ground, pairs)), updates)


def with_reward(
    ground: Ground, costs: Costs, pairs: str, kind: str, make: Callable[[str, int], Fit], times: float = 1.0
) -> Trained:
    """A method that learns from a reward model, which is learnt from the same pairs within the same budget.

    Args:
        ground: where.
        costs: of the world.
        pairs: of the reward model.
        kind: of iteration, by its cost.
        make: the fit, from the reward model's folder and the number of iterations.
        times: so many budgets.
    """
    iterations = bought(costs, kind, times * ground.budget, reward_updates(ground) * costs["reward"])
    with tempfile.TemporaryDirectory() as folder:
        learned_reward(ground, pairs, f"{folder}/reward")
        return train(make(f"{folder}/reward", iterations), updates_of(kind, iterations), iterations)


def updates_of(kind: str, iterations: int) -> int:
    """About how many updates so many iterations have; it says when the middle is."""
    each = {"ppo": 2 * PASSES, "online": 2, "online_reward": 2, "reward_weighted": PASSES * DRAWN // 64}
    return iterations * each.get(kind, PASSES)


def finished(trained: Trained, ground: Ground, on_the_way: bool = False, **more: Any) -> Result:
    """What a fit has come to, and where asked for what it was at the marks."""
    judge, curve = ground.judge, []
    if on_the_way:
        scratch = PolicyNetwork(load_causal_lm(str(ground.start))).eval()
        for share, weights in zip(MARKS, trained.looks, strict=False):
            scratch.load_state_dict(weights)
            curve.append({"share": share, **judge.measure(scratch, ground.seed, on_the_way=True)})
    end = judge.measure(trained.policy, ground.seed)
    return {**end, "updates": trained.updates, "curve": curve, **more}
