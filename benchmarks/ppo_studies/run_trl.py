"""One run of TRL's PPOTrainer, in an environment that has it: ``python -m benchmarks.ppo_studies.run_trl JOB``.

The job is a JSON object: `sft`, `reward`, `prompts` (a file, one list of token ids a line), `beta`, `iterations`,
`seed`, `every`, `out`. Policies are saved as ``out/policy-ITERATION.pt``; the last line printed is what was logged
and the CPU seconds.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)

RESPONSES, MINIBATCH, EPOCHS, MAX_NEW_TOKENS = 128, 64, 2, 20


class Save(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Writes the policy after every so many iterations, and keeps what was logged."""

    def __init__(self, policy: Any, out: Path, every: int) -> None:
        self.policy, self.out, self.every = policy, out, every
        self.logged: list[dict[str, float]] = []
        self.seconds = 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **more: Any) -> None:
        if "objective/kl" in logs:
            self.logged.append(
                {
                    "iteration": state.global_step - 1,
                    "kl": round(logs["objective/kl"], 5),
                    "score": round(logs["objective/scores"], 5),
                    "clip_fraction": round(logs["policy/clipfrac_avg"], 5),
                }
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step % self.every == 0:
            begun = time.process_time()
            torch.save(self.policy.state_dict(), self.out / f"policy-{state.global_step}.pt")
            self.seconds += time.process_time() - begun


def main() -> None:
    """Run the job that stands on the command line."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    job = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(train(job, folder)))


def train(job: dict[str, Any], folder: str) -> dict[str, Any]:
    """TRL's run at the settings that both sides share."""
    from trl.experimental.ppo import (  # type: ignore[import-not-found, unused-ignore]  # not in our environment
        PPOConfig,
        PPOTrainer,
    )

    torch.manual_seed(job["seed"])
    policy, reference = (AutoModelForCausalLM.from_pretrained(job["sft"]) for _ in range(2))
    reward, critic = (scorer(job["reward"]) for _ in range(2))
    tokenizer = AutoTokenizer.from_pretrained(job["sft"], padding_side="left")
    rows = [{"input_ids": json.loads(line)} for line in Path(job["prompts"]).read_text().splitlines()]
    settings = PPOConfig(
        output_dir=folder,
        # accelerate makes one update of gradient_accumulation_steps micro-batches, across minibatches too
        per_device_train_batch_size=RESPONSES,
        gradient_accumulation_steps=1,
        num_mini_batches=RESPONSES // MINIBATCH,
        num_ppo_epochs=EPOCHS,
        total_episodes=RESPONSES * job["iterations"],
        response_length=MAX_NEW_TOKENS,
        local_rollout_forward_batch_size=RESPONSES,
        stop_token="eos",
        temperature=1.0,
        kl_coef=job["beta"],
        cliprange_value=0.5,
        vf_coef=0.5,
        missing_eos_penalty=3.0,
        learning_rate=5e-4,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        adam_beta2=0.98,
        adam_epsilon=1e-5,
        weight_decay=0.0,
        num_sample_generations=0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=job["seed"],
    )
    save = Save(policy, Path(job["out"]), job["every"])
    trainer = PPOTrainer(
        args=settings,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=critic,
        train_dataset=Dataset.from_list(rows),
        callbacks=[save],
    )
    updates = 0

    def count(*arguments: Any) -> None:
        nonlocal updates
        updates += 1

    trainer.optimizer.optimizer.register_step_post_hook(count)
    begun = time.process_time()
    trainer.train()
    seconds = time.process_time() - begun - save.seconds
    expected = job["iterations"] * EPOCHS * RESPONSES // MINIBATCH
    if updates != expected:
        raise RuntimeError(f"TRL made {updates} updates, expected {expected}")
    return {"cpu_seconds": round(seconds, 2), "updates": updates, "logged": save.logged}


def scorer(folder: str) -> Any:
    """A reward model with the bias that plain transformers' head has no place for."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    head = torch.nn.Linear(model.score.in_features, 1)
    with torch.no_grad():
        head.weight.copy_(model.score.weight)
        head.bias.fill_(getattr(model.config, "score_bias", 0.0))
    model.score = head
    return model


if __name__ == "__main__":
    main()
