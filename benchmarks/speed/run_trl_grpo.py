"""One run of TRL's GRPOTrainer, in an environment with TRL 1.16: ``python -m benchmarks.speed.run_trl_grpo JOB``."""

from __future__ import annotations

import tempfile
from typing import Any

import transformers.models.llama.modeling_llama  # noqa: F401  # imported now, so that it is not weighed later
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found, unused-ignore]  # see above

from benchmarks.speed import rows as random_rows
from benchmarks.speed.iterations import Iterations
from benchmarks.speed.job import Job
from benchmarks.speed.lengths import keep_to, response_limits
from benchmarks.speed.meter import described
from benchmarks.speed.watch_trl import Watch, quiet

KL_COEF = 0.05


def main() -> None:
    """Run the job that stands on the command line and print what was measured."""
    quiet()
    job = Job.from_arguments()
    seen = Iterations(job)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(job, folder, Watch(seen, "kl"))
        watch_parts(trainer, seen)
        trainer.train()
    seen.report(
        optimizer=described(trainer.optimizer),
        attention=trainer.model.config._attn_implementation,
        updates=trainer.state.global_step,
    )


def make_trainer(job: Job, folder: str, watch: Watch) -> Any:
    """The settings that both sides share; an iteration is one update, so that no old policy is looked at again."""
    settings = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=job.microbatch,
        gradient_accumulation_steps=job.batch * job.responses // job.microbatch,
        num_generations=job.responses,
        max_completion_length=job.lengths[1],
        max_steps=job.warm + job.steps,
        temperature=1.0,
        beta=KL_COEF,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        optim="adamw_torch" if job.bf16 else "adamw_torch_fused",
        weight_decay=0.0,
        max_grad_norm=job.clip,
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
    model = random_rows.policy(job)
    # the reference is loaded from where the policy says that it came from
    model.save_pretrained(folder)
    model.config._name_or_path = folder
    keep_to(model, job)
    # the BOS stands in the text, since the tokenizer adds none
    texts = ["<s> " + random_rows.text_of(ids[1:]) for ids in random_rows.prompts(job)]
    return GRPOTrainer(
        model,
        reward_funcs=random_rows.reward_of_tokens,
        args=settings,
        train_dataset=Dataset.from_list([{"prompt": text} for text in texts]),
        processing_class=random_rows.tokenizer(job.size),
        callbacks=[watch],
    )


def watch_parts(trainer: Any, seen: Iterations) -> None:
    """Let the stopwatch see the parts of an iteration, and tell of each rollout, in rows as wide as the longest."""
    stopwatch, limits = seen.stopwatch, iter(response_limits(seen.job))
    stopwatch.watch(trainer, "_generate_single_turn", "sampling")
    generate = trainer._generate_single_turn

    def told(prompt_ids: list[list[int]], *arguments: Any, **more: Any) -> Any:
        if any(len(ids) != seen.job.prompt for ids in prompt_ids):
            raise RuntimeError(
                f"expected prompts of {seen.job.prompt} tokens, found {list(map(len, prompt_ids))}"
            )
        padded, *further = generate(prompt_ids, *arguments, **more)
        responses = [row[:length] for row, length in zip(padded, next(limits), strict=True)]
        lengths = list(map(len, responses))
        seen.rollout(lengths, len(lengths) * max(lengths))
        return responses, *further

    trainer._generate_single_turn = told
    stopwatch.watch(trainer, "_generate_and_score_completions", "scoring")
    stopwatch.watch(trainer, "compute_loss", "update forward")
    stopwatch.watch(trainer.accelerator, "backward", "backward")


if __name__ == "__main__":
    main()
