"""A few steps of a phase through its module and Lightning's trainer on several ranks, its collectives counted."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import Strategy

from benchmarks.scale.collectives import CollectiveCounter, Tallies
from benchmarks.scale.launch import run_ranks
from benchmarks.scale.volume import mean
from benchmarks.speed import rows as random_rows
from benchmarks.speed.job import Job
from benchmarks.speed.run_ours import make_trees, quiet
from benchmarks.speed.run_ours_ppo import make_rows
from lit_rlhf.data.loader import TreeLoader
from lit_rlhf.modules.base import PhaseModule
from lit_rlhf.modules.dpo import DPOModule
from lit_rlhf.modules.ppo import PPOModule
from lit_rlhf.modules.reward import RewardModule
from lit_rlhf.modules.sft import SFTModule
from lit_rlhf.records import Row
from lit_rlhf.strategies.fsdp2 import FSDP2Strategy

Phase = Literal["sft", "reward", "dpo", "ppo"]
PHASES: tuple[Phase, ...] = ("sft", "reward", "dpo", "ppo")
LORA_RANK = 4
STEPS, EARLY = 4, 2
"""Of a phase without rollouts, and how many of them are left out: DDP then puts its buckets in order."""
ITERATIONS = 3
"""Of PPO; the first is left out, whose rollout is looked at more closely."""


@dataclass(frozen=True)
class Run:
    """What is run.

    Args:
        phase: which module.
        strategy: Lightning's name of it.
        ranks: processes.
        size: of every network, a key of :data:`benchmarks.speed.rows.SIZES`.
        lora: whether adapters are trained in place of weights.
        reshard_after_forward: of `fsdp2`.
        whole_while_sampling: of `fsdp2`.
        accumulate: micro-batches of an update.
        precision: Lightning's name of it.
        rows: of a micro-batch on each rank: demonstrations, pairs, or responses.
        prompt: tokens of a prompt.
        response: tokens of a response.
        epochs: PPO: passes over a rollout.
        minibatches: PPO: updates of a pass.
    """

    phase: Phase
    strategy: Literal["ddp", "fsdp2"]
    ranks: int
    size: str = "A"
    lora: bool = False
    reshard_after_forward: bool = True
    whole_while_sampling: bool = False
    accumulate: int = 1
    precision: Literal["32-true", "bf16-mixed", "bf16-true"] = "32-true"
    rows: int = 2
    prompt: int = 24
    response: int = 8
    epochs: int = 2
    minibatches: int = 2

    @property
    def job(self) -> Job:
        """The same for the random models and rows of the speed benchmarks."""
        steps = 1 if self.phase == "ppo" else STEPS * self.accumulate - 1
        return Job(
            self.phase,
            "ours",
            self.size,
            self.prompt,
            self.response,
            responses=1 if self.phase == "ppo" else 2,
            lengths=(self.prompt + self.response,) * 2 if self.phase == "sft" else (self.response,) * 2,
            batch=self.responses if self.phase == "ppo" else self.rows * self.ranks,
            steps=steps,
            jitter=0.0,
        )

    @property
    def responses(self) -> int:
        """PPO: of an iteration, over all ranks."""
        return self.rows * self.ranks * self.accumulate * self.minibatches

    @property
    def updates(self) -> int:
        """PPO: of an iteration."""
        return self.epochs * self.minibatches


@dataclass(frozen=True)
class Counted:
    """What one rank asked for."""

    step: Tallies
    """Of a training step (one update) in the mean, the first ones left out."""
    rollout: Tallies
    """Of a rollout in the mean, the first left out."""
    start: Tallies
    """Before the first step."""


def count(run: Run) -> Counted:
    """Run it on as many processes and count; every rank must ask for the same.

    Raises:
        RuntimeError: a rank failed, or ranks differ.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = run.job
        if run.phase in ("reward", "ppo"):
            for number, name in enumerate(("reward", "critic")):
                random_rows.classifier(job, number).save_pretrained(Path(folder) / name)
                random_rows.tokenizer(run.size).save_pretrained(Path(folder) / name)
        found = run_ranks(_count_here, run.ranks, run, Path(folder))
    if any(each != found[0] for each in found):
        raise RuntimeError(f"{run}: expected the same collectives on every rank, found {found}")
    counted: Counted = found[0]
    return counted


def _count_here(run: Run, folder: Path) -> Counted:
    torch.set_num_threads(1)
    quiet()
    torch.manual_seed(0)
    counter = CollectiveCounter()
    module = make_module(run, folder)
    trainer = make_trainer(run, [Stages(counter, run)])
    with counter:
        trainer.fit(module, make_loader(run, module, trainer))
    tallies = counter.tallies()
    early = run.updates if run.phase == "ppo" else EARLY
    return Counted(_mean(tallies, "step", early), _mean(tallies, "rollout", 1), tallies.get("start", {}))


class Stages(Callback):
    """Tells the counter which update, and which rollout, is under way."""

    def __init__(self, counter: CollectiveCounter, run: Run) -> None:
        self.counter, self.run = counter, run

    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        if isinstance(module, PPOModule):
            module.collect = self.watched(module.collect)  # type: ignore[method-assign]

    def watched(self, collect: Callable[..., Any]) -> Callable[..., Any]:
        """A rollout is a stage of its own, within the step that its first batch is for."""

        def counted(rows: Any, iteration: int) -> Any:
            outside, self.counter.stage = self.counter.stage, f"rollout {iteration}"
            try:
                return collect(rows, iteration)
            finally:
                self.counter.stage = outside

        return counted

    def on_train_epoch_start(self, trainer: L.Trainer, module: Any) -> None:
        self.counter.stage = f"step {trainer.global_step}"

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.counter.stage = "end" if trainer.is_last_batch else f"step {trainer.global_step}"


def _mean(stages: dict[str, Tallies], kind: str, early: int) -> Tallies:
    """Over the stages of a kind but the first few."""
    left_out = {f"{kind} {number}" for number in range(early)}
    return mean(
        [found for stage, found in stages.items() if stage.startswith(kind) and stage not in left_out]
    )


def make_module(run: Run, folder: Path) -> PhaseModule:
    """The phase's module on random models, the same on every rank."""
    job = run.job
    settings: dict[str, Any] = {
        "optimizer": partial(torch.optim.AdamW, lr=1e-4, weight_decay=0.0),
        "tokenizer": random_rows.tokenizer(run.size),
        "lora": {"r": LORA_RANK} if run.lora else None,
    }
    if run.phase == "sft":
        return SFTModule(random_rows.causal_lm(job), seed=0, **settings)
    if run.phase == "dpo":
        return DPOModule(random_rows.causal_lm(job), **settings)
    if run.phase == "reward":
        return RewardModule(str(folder / "reward"), center=False, **settings)
    return PPOModule(
        random_rows.policy(job),
        str(folder / "reward"),
        critic="shared" if run.lora else str(folder / "critic"),
        epochs=run.epochs,
        minibatch_size=run.responses // run.minibatches,
        max_new_tokens=run.response,
        seed=0,
        **settings,
    )


def make_trainer(run: Run, callbacks: list[Callback]) -> L.Trainer:
    """Logs every update, clips, and writes nothing."""
    fsdp2 = FSDP2Strategy(
        reshard_after_forward=run.reshard_after_forward, whole_while_sampling=run.whole_while_sampling
    )
    strategy: str | Strategy = fsdp2 if run.strategy == "fsdp2" else run.strategy
    return L.Trainer(
        accelerator="cpu",
        devices=run.ranks,
        strategy=strategy,
        precision=run.precision,
        max_epochs=ITERATIONS if run.phase == "ppo" else 1,
        accumulate_grad_batches=run.accumulate,
        gradient_clip_val=1.0,
        log_every_n_steps=1,
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def make_loader(run: Run, module: PhaseModule, trainer: L.Trainer) -> Any:
    """The rank's share of the rows; PPO's own loader."""
    if isinstance(module, PPOModule):
        return module.rollout_loader(prompts(run.job), batch_size=run.responses)
    return TreeLoader(
        make_trees(run.job),
        batch_size=run.rows * run.ranks,
        shuffle=False,
        rank=trainer.global_rank,
        world_size=run.ranks,
    )


def prompts(job: Job) -> list[Row]:
    """PPO's, each with a name of its own, by which its samples are known to share it."""
    return [replace(row, id=f"prompt {number}") for number, row in enumerate(make_rows(job))]
