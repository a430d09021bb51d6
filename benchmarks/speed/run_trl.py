"""One run of a TRL trainer, in an environment that has it: ``python -m benchmarks.speed.run_trl JOB``.

TRL's own defaults (gradient checkpointing, bf16 autocast) are two to three times slower on a CPU, so they are
switched off: both sides compute the same numbers the same plain way.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import datasets
import transformers.models.llama.modeling_llama  # noqa: F401  # imported now, so that it is not weighed later
from datasets import Dataset
from transformers import TrainerCallback
from trl import (  # type: ignore[import-not-found, unused-ignore]  # in an environment of its own
    DPOConfig,
    DPOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)

from benchmarks.speed import rows as random_rows
from benchmarks.speed.job import Job
from benchmarks.speed.meter import Meter, described

CLIP = 1.0


class Watch(TrainerCallback):
    """Tells the meter of each step's end."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_step_end(self, *arguments: Any, **more: Any) -> None:
        self.meter.step()


class TokenRowsDPOTrainer(DPOTrainer):
    """Rows are tokens already, which TRL's preparation does not expect here."""

    def _prepare_dataset(self, dataset: Any, *arguments: Any, **more: Any) -> Any:
        return dataset


def main() -> None:
    """Run the job that stands on the command line and print what was measured."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    job = Job.from_arguments()
    meter = Meter(job)
    with tempfile.TemporaryDirectory() as folder:
        trainer = MAKERS[job.phase](job, shared_settings(job, folder), Watch(meter))
        trainer.data_collator = metered(trainer.data_collator, meter)
        watch_first_loss(trainer, meter)
        trainer.train()
        meter.measured(
            optimizer=described(trainer.optimizer), attention=trainer.model.config._attn_implementation
        ).report()


def shared_settings(job: Job, folder: str) -> dict[str, Any]:
    """The training arguments that all three trainers get."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": job.batch,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "optim": "adamw_torch" if job.bf16 else "adamw_torch_fused",
        "max_grad_norm": CLIP,
        "gradient_checkpointing": False,
        "bf16": job.bf16,
        "use_cpu": job.device == "cpu",
        "dataloader_pin_memory": False,
        "logging_steps": job.log_every,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 1,
    }


def dpo_trainer(job: Job, settings: dict[str, Any], watch: Watch) -> Any:
    rows = Dataset.from_list(
        [
            {"prompt_ids": row.prompt, "chosen_ids": row.responses[0], "rejected_ids": row.responses[1]}
            for row in random_rows.comparisons(job)
        ]
    )
    return TokenRowsDPOTrainer(
        random_rows.causal_lm(job),
        ref_model=random_rows.causal_lm(job),
        args=DPOConfig(**settings, max_length=None, beta=0.1),
        train_dataset=rows,
        processing_class=random_rows.tokenizer(job.size),
        callbacks=[watch],
    )


def reward_trainer(job: Job, settings: dict[str, Any], watch: Watch) -> Any:
    rows = Dataset.from_list(
        [
            {"chosen_ids": row.prompt + row.responses[0], "rejected_ids": row.prompt + row.responses[1]}
            for row in random_rows.comparisons(job)
        ]
    )
    return RewardTrainer(
        random_rows.classifier(job),
        args=RewardConfig(**settings, max_length=None),
        train_dataset=rows,
        processing_class=random_rows.tokenizer(job.size),
        callbacks=[watch],
    )


def sft_trainer(job: Job, settings: dict[str, Any], watch: Watch) -> Any:
    """Packed: as many rows of the largest length as hold the tokens of a padded step of the mean length."""
    rows = Dataset.from_list(
        [
            {
                "input_ids": row.prompt + row.response,
                "completion_mask": [0] * len(row.prompt) + [1] * len(row.response),
            }
            for row in random_rows.demonstrations(job)
        ]
    )
    mean, largest = job.lengths
    if job.packed:
        settings = {**settings, "per_device_train_batch_size": max(1, job.batch * mean // largest)}
    return SFTTrainer(
        random_rows.causal_lm(job),
        SFTConfig(**settings, max_length=largest, packing=job.packed, completion_only_loss=True),
        train_dataset=rows,
        processing_class=random_rows.tokenizer(job.size),
        callbacks=[watch],
    )


MAKERS: dict[str, Callable[[Job, dict[str, Any], Watch], Any]] = {
    "dpo": dpo_trainer,
    "reward": reward_trainer,
    "sft": sft_trainer,
}


def metered(collate: Callable[[Any], Any], meter: Meter) -> Callable[[Any], Any]:
    """`collate`, telling the meter of each batch's real tokens and slots; a packed batch has no padding."""

    def collate_and_count(rows: Any) -> Any:
        batch = collate(rows)
        slots = batch["input_ids"].numel()
        mask = batch.get("attention_mask")
        meter.batch(slots if mask is None else int(mask.sum()), slots)
        return batch

    return collate_and_count


def watch_first_loss(trainer: Any, meter: Meter) -> None:
    """Let the meter see what `training_step` returns."""
    training_step = trainer.training_step

    def watched(*arguments: Any, **more: Any) -> Any:
        loss = training_step(*arguments, **more)
        if meter.first_loss is None:
            meter.loss(loss)
        return loss

    trainer.training_step = watched


if __name__ == "__main__":
    main()
