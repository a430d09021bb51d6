"""One run of TRL's PPOTrainer, in an environment with TRL 1.12: ``python -m benchmarks.speed.run_trl_ppo JOB``.

TRL's own defaults (gradient checkpointing, bf16) are slower on a CPU and are switched off.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from typing import Any

import torch
import transformers.models.llama.modeling_llama  # noqa: F401  # imported now, so that it is not weighed later
import trl.experimental.ppo.ppo_trainer as ppo  # type: ignore[import-not-found, unused-ignore]  # see above
from datasets import Dataset
from trl.experimental.ppo import PPOConfig, PPOTrainer  # type: ignore[import-not-found, unused-ignore]

from benchmarks.speed import rows as random_rows
from benchmarks.speed.iterations import Iterations
from benchmarks.speed.job import Job
from benchmarks.speed.lengths import keep_to
from benchmarks.speed.meter import described
from benchmarks.speed.watch_trl import Watch, quiet

KL_COEF = 0.05


def main() -> None:
    """Run the job that stands on the command line and print what was measured."""
    quiet()
    job = Job.from_arguments()
    seen = Iterations(job)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(job, folder, Watch(seen, "objective/kl"))
        updates = 0

        def count(*arguments: Any) -> None:
            nonlocal updates
            updates += 1

        trainer.optimizer.optimizer.register_step_post_hook(count)
        watch_parts(trainer, seen)
        trainer.train()
    seen.report(
        optimizer=described(trainer.optimizer),
        attention=trainer.policy_model.config._attn_implementation,
        updates=updates,
    )


def make_trainer(job: Job, folder: str, watch: Watch) -> Any:
    """The settings that both sides share; one minibatch, and so one update, an epoch.

    The loader has one batch more than is used: in the last one accelerate makes an update of every micro-batch.
    """
    spare = replace(job, steps=job.steps + 1)
    tokenizer = random_rows.tokenizer(job.size)
    tokenizer.padding_side = "left"
    settings = PPOConfig(
        output_dir=folder,
        per_device_train_batch_size=job.microbatch,
        gradient_accumulation_steps=job.batch // job.microbatch,
        num_mini_batches=1,
        num_ppo_epochs=job.epochs,
        total_episodes=job.batch * (job.warm + job.steps),
        response_length=job.lengths[1],
        local_rollout_forward_batch_size=job.batch,
        stop_token="eos",
        temperature=1.0,
        kl_coef=KL_COEF,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        optim="adamw_torch" if job.bf16 else "adamw_torch_fused",
        weight_decay=0.0,
        num_sample_generations=0,
        use_cpu=job.device == "cpu",
        bf16=job.bf16,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=job.seed,
    )
    policy = random_rows.policy(job)
    # run outside autocast
    frozen = [random_rows.policy(job), random_rows.classifier(job, 1)]
    if job.bf16:
        frozen = [model.bfloat16() for model in frozen]
    keep_to(policy, job)
    return PPOTrainer(
        args=settings,
        processing_class=tokenizer,
        model=policy,
        ref_model=frozen[0],
        reward_model=frozen[1],
        value_model=random_rows.classifier(job, 2),
        train_dataset=Dataset.from_list([{"input_ids": ids} for ids in random_rows.prompts(spare)]),
        callbacks=[watch],
    )


def watch_parts(trainer: Any, seen: Iterations) -> None:
    """Let the stopwatch see the parts of an iteration, and tell of each rollout, padded to the longest."""
    stopwatch = seen.stopwatch
    stopwatch.watch(ppo, "batch_generation", "sampling")
    generate = ppo.batch_generation

    def told(model: Any, queries: torch.Tensor, *arguments: Any) -> Any:
        generated = generate(model, queries, *arguments)
        responses = generated[0][:, queries.shape[1] :]
        seen.rollout((responses != random_rows.PAD).sum(1).tolist(), responses.numel())
        return generated

    ppo.batch_generation = told
    stopwatch.watch(ppo, "forward", lambda: "update forward" if torch.is_grad_enabled() else "scoring")
    stopwatch.watch(ppo, "get_reward", "scoring")
    stopwatch.watch(trainer.accelerator, "backward", "backward")
    stopwatch.watch(trainer.optimizer, "step", "optimizer")


if __name__ == "__main__":
    main()
