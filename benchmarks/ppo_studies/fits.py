"""Runs of the studies: the project's own modules and trainer, quiet, and seen by the evaluator on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch

from benchmarks.ppo_studies.evaluation import Evaluator, Numbers
from benchmarks.reward_studies.fits import quieten
from lit_rlhf import DPOModule, PairDataModule, PPOModule, PromptDataModule
from lit_rlhf.cli.demo.phases import adamw, warm_up_then_fall
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.rollout.shaping import ScoreShaping

RESPONSES = 128
"""Responses of an iteration in the demo world."""
ON_THE_WAY, AT_THE_END = 256, 1024
"""Responses that a policy is measured on, every few iterations and when it is done."""

DEMO: Mapping[str, Any] = {
    "kl_coef": 0.2,
    "epochs": 2,
    "minibatch_size": 64,
    "max_new_tokens": 20,
    "value_coef": 0.5,
    "value_clip_range": 0.5,
    "critic_learning_rate": 1e-3,
    "shaping": ScoreShaping(missing_eos_score=-3.0),
}
"""What ``lit-rlhf demo`` gives to PPO, whose learning rates also fall to 0 there."""


@dataclass
class Run:
    """A policy that has been trained."""

    module: Any
    points: list[Numbers]
    """What was measured on the way, each with its ``iteration``."""
    logged: list[Numbers]
    """What the module logged of each iteration, by the names of the fields below."""
    cpu_seconds: float
    """Of the fit without the measuring."""

    @property
    def policy(self) -> PolicyNetwork:
        network: PolicyNetwork = getattr(self.module.network, "policy", self.module.network)
        return network


LOGGED = {
    "objective/kl": "kl",
    "objective/scores": "score",
    "objective/kl_coef": "kl_coef",
    "objective/entropy": "entropy",
    "policy/approx_kl": "approx_kl",
    "policy/clip_fraction": "clip_fraction",
    "value/explained_variance": "explained_variance",
    "rollout/eos_rate": "eos_rate",
}


class Watch(L.Callback):
    """Measures the policy before the first iteration and after every so many, and keeps what was logged.

    Args:
        measure: numbers of a policy.
        every: iterations between two measurements.
    """

    def __init__(self, measure: Callable[[PolicyNetwork], Numbers] | None, every: int) -> None:
        self.measure, self.every = measure, every
        self.points: list[Numbers] = []
        self.logged: list[Numbers] = []
        self.seconds = 0.0

    def on_train_epoch_end(self, trainer: L.Trainer, module: Any) -> None:
        done = trainer.current_epoch + 1
        if self.measure is not None and done % self.every == 0:
            begun = time.process_time()
            self.points.append({"iteration": done, **self.measure(module.network.policy)})
            self.seconds += time.process_time() - begun

    def on_train_epoch_start(self, trainer: L.Trainer, module: Any) -> None:
        # The module logs an iteration when it ends, after its callbacks were called.
        if trainer.current_epoch > 0:
            self._keep(trainer)

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        self._keep(trainer)

    def _keep(self, trainer: L.Trainer) -> None:
        seen = trainer.callback_metrics
        found = {new: round(float(seen[old]), 5) for old, new in LOGGED.items() if old in seen}
        self.logged.append({"iteration": trainer.current_epoch - 1, **found})


def optimise(
    policy: Path,
    prompts: Path,
    evaluator: Evaluator | None,
    iterations: int,
    seed: int,
    every: int = 10,
    learning_rate: float = 5e-4,
    epsilon: float = 1e-5,
    anneal: bool = False,
    gradient_clip: float | None = 1.0,
    prompts_an_iteration: int = RESPONSES,
    **arguments: Any,
) -> Run:
    """A policy after so many iterations of the project's own PPO module.

    Args:
        policy: folder of the model to start from.
        prompts: file to train on.
        evaluator: measures on the way; None = nothing.
        iterations: rollouts with their updates.
        seed: of prompts, samples and minibatches.
        every: iterations between two measurements.
        learning_rate: of AdamW for the policy.
        epsilon: AdamW's.
        anneal: whether learning rates fall linearly to 0.
        gradient_clip: norm that gradients are clipped at; None = not.
        prompts_an_iteration: with `samples_per_prompt` responses to each.
        arguments: the module's.
    """
    quieten()
    torch.manual_seed(seed)
    samples = arguments.get("samples_per_prompt", 1)
    updates = iterations * arguments["epochs"] * prompts_an_iteration * samples // arguments["minibatch_size"]
    module = PPOModule(
        str(policy),
        optimizer=adamw(learning_rate, epsilon=epsilon),
        scheduler=warm_up_then_fall(updates, 1) if anneal else None,
        seed=seed,
        **arguments,
    )
    measure = (lambda now: evaluator.measure(now, ON_THE_WAY, seed, 31)) if evaluator else None
    watch = Watch(measure, every)
    data = PromptDataModule(str(prompts), batch_size=prompts_an_iteration, seed=seed)
    seconds = fit(module, data, iterations, watch, gradient_clip)
    return Run(module, watch.points, watch.logged, seconds - watch.seconds)


def optimise_directly(
    policy: Path, pairs: Path, pair_count: int, beta: float, learning_rate: float, seed: int
) -> Run:
    """A policy after one pass of DPO over the comparisons, as the demo runs it."""
    quieten()
    torch.manual_seed(seed)
    module = DPOModule(
        str(policy),
        beta=beta,
        optimizer=adamw(learning_rate),
        scheduler=warm_up_then_fall(pair_count // 32, 10),
        max_new_tokens=20,
    )
    data = PairDataModule(str(pairs), batch_size=32, seed=seed)
    return Run(module, [], [], fit(module, data, 1, None, 1.0))


def fit(
    module: L.LightningModule,
    data: L.LightningDataModule,
    epochs: int,
    watch: L.Callback | None,
    gradient_clip: float | None,
) -> float:
    """Train; returns CPU seconds."""
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        gradient_clip_val=gradient_clip,
        logger=False,
        limit_val_batches=0,
        callbacks=[watch] if watch else [],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    begun = time.process_time()
    trainer.fit(module, datamodule=data)
    return time.process_time() - begun
