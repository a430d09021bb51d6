"""One run of this package's PPOModule in a Lightning trainer: ``python -m benchmarks.speed.run_ours_ppo JOB``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import transformers.models.llama.modeling_llama  # noqa: F401  # imported now, so that it is not weighed later
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from benchmarks.speed import rows as random_rows
from benchmarks.speed.iterations import Iterations
from benchmarks.speed.job import Job
from benchmarks.speed.lengths import response_limits
from benchmarks.speed.meter import described
from benchmarks.speed.run_ours import quiet
from lit_rlhf.modules.ppo import PPOModule
from lit_rlhf.records import Experience, Row
from lit_rlhf.rollout import collect
from lit_rlhf.rollout.responses import SampledResponses

KL_COEF = 0.05


class Watch(Callback):
    """Tells of each rollout and each iteration's end.

    Args:
        seen: told.
    """

    def __init__(self, seen: Iterations) -> None:
        self.seen = seen

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.seen.stopwatch.watch(trainer.optimizers[0], "step", "optimizer")

    def rollout(self, experience: Experience) -> None:
        """A rollout is over."""
        lengths = experience.response_mask.sum(1).tolist()
        self.seen.rollout(lengths, sum(lengths))
        mask = experience.response_mask
        gap = experience.old_logprobs - experience.reference_logprobs
        self.seen.kl(float(gap[mask].sum() / len(lengths)))

    def on_train_epoch_end(self, trainer: L.Trainer, module: Any) -> None:
        self.seen.over()


def main() -> None:
    """Run the job that stands on the command line and print what was measured."""
    job = Job.from_arguments()
    seen = Iterations(job)
    with tempfile.TemporaryDirectory() as folder:
        module = make_module(job, Path(folder))
        watch = Watch(seen)
        watch_parts(module, watch)
        trainer = make_trainer(job, watch, Path(folder))
        trainer.fit(module, train_dataloaders=module.rollout_loader(make_rows(job), batch_size=job.batch))
        network: Any = module.network
        seen.report(
            optimizer=described(trainer.optimizers[0]),
            attention=network.policy.causal_lm.config._attn_implementation,
            updates=trainer.global_step,
        )


def make_rows(job: Job) -> list[Row]:
    """The prompts as text; the module puts the BOS in front."""
    return [Row(prompt=random_rows.text_of(ids[1:])) for ids in random_rows.prompts(job)]


def make_module(job: Job, folder: Path) -> PPOModule:
    """PPO with a reward model and a critic of the policy's size, or GRPO with a reward function."""
    tokenizer = random_rows.tokenizer(job.size)
    settings: dict[str, Any] = {
        "kl_coef": KL_COEF,
        "samples_per_prompt": job.responses,
        "epochs": job.epochs,
        "minibatch_size": job.batch * job.responses,
        "max_new_tokens": job.lengths[1],
        "optimizer": partial(torch.optim.AdamW, lr=1e-6, weight_decay=0.0, fused=not job.bf16),
        "tokenizer": tokenizer,
        "attention": job.attention,
        "seed": job.seed,
    }
    if job.phase == "grpo":
        more: dict[str, Any] = {"advantage": "grpo", "kl_in": "loss", "kl_estimator": "k3"}
        return PPOModule(random_rows.policy(job), random_rows.reward_of_tokens, **more, **settings)
    for number, name in enumerate(("reward", "critic"), start=1):
        random_rows.classifier(job, number).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return PPOModule(
        random_rows.policy(job),
        str(folder / "reward"),
        critic="shared" if job.critic == "shared" else str(folder / "critic"),
        **settings,
    )


def make_trainer(job: Job, watch: Watch, folder: Path) -> L.Trainer:
    """As in somebody's script, with a logger, and without checkpoints and bar, which the other side has not either."""
    return L.Trainer(
        accelerator="gpu" if job.device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if job.bf16 else "32-true",
        max_epochs=job.warm + job.steps,
        gradient_clip_val=job.clip,
        accumulate_grad_batches=job.batch * job.responses // job.microbatch,
        log_every_n_steps=1,
        logger=TensorBoardLogger(folder),
        callbacks=[watch],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


def watch_parts(module: PPOModule, watch: Watch) -> None:
    """Let the stopwatch see the parts of an iteration, the callback each rollout, and the sampler the lengths."""
    stopwatch, limits = watch.seen.stopwatch, iter(response_limits(watch.seen.job))
    sample: Callable[..., SampledResponses] = collect.sample_responses

    def limited(*arguments: Any, **more: Any) -> SampledResponses:
        return sample(*arguments, limits=next(limits), **more)

    collect.sample_responses = limited
    stopwatch.watch(collect, "sample_responses", "sampling")
    stopwatch.watch(module, "collect", "scoring")
    stopwatch.watch(module, "compute_loss", "update forward")
    stopwatch.watch(module, "backward", "backward")
    on_rollout_end = module.on_rollout_end

    def told(experience: Experience) -> None:
        watch.rollout(experience)
        on_rollout_end(experience)

    module.on_rollout_end = told  # type: ignore[method-assign]


if __name__ == "__main__":
    quiet()
    main()
