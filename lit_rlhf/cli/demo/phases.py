"""The demo's fits: the project's own modules, data modules and callbacks, as anybody would put them together."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_rlhf import (
    DemonstrationDataModule,
    DPOModule,
    PairDataModule,
    PPOModule,
    PromptDataModule,
    RewardModule,
    SFTModule,
)
from lit_rlhf.callbacks import ExportAtEnd, GracefulStop, MetricsFile, SampleTable
from lit_rlhf.cli.checkpoints import AtomicCheckpointIO
from lit_rlhf.cli.run_folder import tensorboard
from lit_rlhf.records import Experience
from lit_rlhf.reports.frontier import TrajectoryPoint
from lit_rlhf.rollout.shaping import ScoreShaping
from lit_rlhf.world.grammar import grammatical

CPU_SECONDS = "cpu_seconds.txt"
"""CPU time of a fit, summed over its interruptions."""
PASSES = 2
"""Over each rollout."""


class TrackedPPO(PPOModule):
    """PPO that also measures the grammar of its rollouts, which the reward model does not see."""

    trajectory: list[TrajectoryPoint]

    def on_rollout_end(self, experience: Experience) -> None:
        super().on_rollout_end(experience)
        texts = [self.encoder.decode(ids) for ids in experience.response_ids]
        finished = (~experience.truncated).tolist()
        correct = [done and grammatical(text.split()) for text, done in zip(texts, finished, strict=True)]
        self.trajectory = [
            *(point for point in getattr(self, "trajectory", []) if point["iteration"] < self.current_epoch),
            {
                "iteration": self.current_epoch,
                "kl": self._rollout_metrics["objective/kl"],
                "gold": self._rollout_metrics["objective/gold"],
                "grammar": sum(correct) / len(correct),
            },
        ]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["trajectory"] = [dict(point) for point in self.trajectory]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.trajectory = checkpoint["trajectory"]


def fit(
    run: Path,
    module: L.LightningModule,
    datamodule: L.LightningDataModule,
    max_epochs: int,
    log_every: int = 10,
) -> float:
    """Fit in a run folder, from its last checkpoint if there is one; returns CPU seconds."""
    last = run / "checkpoints" / "last.ckpt"
    continued = str(last) if last.exists() else None
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=max_epochs,
        default_root_dir=run,
        logger=tensorboard(run, continued),
        callbacks=[
            MetricsFile(),
            SampleTable(),
            ExportAtEnd(),
            GracefulStop(),
            ModelCheckpoint(run / "checkpoints", save_top_k=0, save_last=True, enable_version_counter=False),
        ],
        gradient_clip_val=1.0,
        log_every_n_steps=log_every,
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    spent_file = run / CPU_SECONDS
    spent = float(spent_file.read_text()) if spent_file.exists() else 0.0
    started = time.process_time()
    try:
        trainer.fit(module, datamodule=datamodule, ckpt_path=continued)
    finally:
        spent += time.process_time() - started
        run.mkdir(parents=True, exist_ok=True)
        spent_file.write_text(f"{spent}\n")
    return spent


def adamw(
    learning_rate: float, weight_decay: float = 0.0, epsilon: float = 1e-8
) -> Callable[[Any], torch.optim.Optimizer]:
    """AdamW as the demo's phases take it."""
    return lambda parameters: torch.optim.AdamW(
        parameters, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.98), eps=epsilon
    )


def warm_up_then_fall(steps: int, warm_up: int, floor: float = 0.0) -> Callable[[Any], Any]:
    """A learning rate that rises over `warm_up` updates and falls linearly to `floor` of its height."""

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / warm_up) * (1 - (1 - floor) * min(1.0, step / max(1, steps)))

    return lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def pretrain(run: Path, model: Path, data: dict[str, Path], rows: int) -> float:
    """The language itself, from text."""
    module = SFTModule(
        str(model),
        optimizer=adamw(3e-3, 0.01),
        scheduler=warm_up_then_fall(rows // 64, 20, 0.1),
        max_new_tokens=20,
    )
    texts = DemonstrationDataModule(str(data["texts"]), val_path=str(data["validation_texts"]), batch_size=64)
    return fit(run, module, texts, 1)


def fine_tune(run: Path, model: Path, data: dict[str, Path], rows: int, seed: int) -> float:
    """What an answer looks like, from demonstrations, one epoch."""
    module = SFTModule(
        str(model),
        optimizer=adamw(1e-3, 0.01),
        scheduler=warm_up_then_fall(rows // 32, 20, 0.1),
        max_new_tokens=20,
        seed=seed,
    )
    demonstrations = DemonstrationDataModule(
        str(data["demonstrations"]), val_path=str(data["validation_demonstrations"]), batch_size=32, seed=seed
    )
    return fit(run, module, demonstrations, 1)


def learn_reward(run: Path, model: Path, data: dict[str, Path], rows: int, seed: int) -> float:
    """What is better, from noisy comparisons, one epoch; demonstrations average 0."""
    torch.manual_seed(seed)  # of the new head, whatever was drawn before
    module = RewardModule(
        str(model),
        references=str(data["validation_demonstrations"]),
        optimizer=adamw(2e-3, 0.01),
        scheduler=warm_up_then_fall(rows // 16, 20),
    )
    pairs = PairDataModule(str(data["pairs"]), val_path=str(data["held_out_pairs"]), batch_size=16, seed=seed)
    return fit(run, module, pairs, 1)


def optimise_directly(
    run: Path, model: Path, data: dict[str, Path], rows: int, beta: float, seed: int
) -> float:
    """DPO on the reward model's own pairs, one epoch."""
    module = DPOModule(
        str(model),
        beta=beta,
        reference_storage="precomputed",
        optimizer=adamw(5e-4),
        scheduler=warm_up_then_fall(rows // 32, 10),
        max_new_tokens=20,
    )
    pairs = PairDataModule(str(data["pairs"]), batch_size=32, seed=seed)
    return fit(run, module, pairs, 1)


def optimise_by_ppo(
    run: Path,
    model: Path,
    reward: Path,
    data: dict[str, Path],
    beta: float,
    iterations: int,
    prompts: int,
    seed: int,
) -> tuple[float, list[TrajectoryPoint]]:
    """PPO against the reward model at one price of KL.

    With a leash there is a place of rest, where learning rates that fall to 0 let the policy come to it; without one
    there is none, and they stay.
    """
    updates = iterations * PASSES * prompts // (prompts // 2)
    module = TrackedPPO(
        str(model),
        reward=str(reward),
        gold_reward="lit_rlhf.world.gold.gold",
        kl_coef=beta,
        epochs=PASSES,
        minibatch_size=prompts // 2,
        max_new_tokens=20,
        value_coef=0.5,
        value_clip_range=0.5,
        shaping=ScoreShaping(missing_eos_score=-3.0),
        critic_learning_rate=1e-3,
        optimizer=adamw(5e-4, epsilon=1e-5),
        scheduler=warm_up_then_fall(updates, 1) if beta > 0 else None,
        seed=seed,
    )
    data_module = PromptDataModule(str(data["prompts"]), batch_size=prompts, seed=seed)
    return fit(run, module, data_module, iterations, log_every=4), module.trajectory
