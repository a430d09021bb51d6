"""Every phase in every form that holds several networks or shares out something else than rows."""

from __future__ import annotations

QUIET = [
    "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
    "--trainer.log_every_n_steps", "1",
]  # fmt: skip
SGD = ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.1"]
ADAMW = ["--model.optimizer", "torch.optim.AdamW", "--model.optimizer.lr", "0.0003"]

UNEVEN = [
    "--data.batch_size", "7", "--trainer.accumulate_grad_batches", "3", "--trainer.max_epochs", "2",
    "--trainer.gradient_clip_val", "0.5",
]  # fmt: skip
"""26 rows: batches of 7, 7, 7 and 5, of which three make an update and then one; clipped."""

SFT = [
    "--model", "SFTModule", "--model.model", "model", "--data", "DemonstrationDataModule",
    "--data.path", "demonstrations.jsonl", "--model.max_new_tokens", "3", *UNEVEN,
]  # fmt: skip
PAIRS = ["--data", "PairDataModule", "--data.path", "pairs.jsonl", *UNEVEN]
RANKINGS = ["--data", "RankingDataModule", "--data.path", "rankings.jsonl", *UNEVEN]
REWARD = ["--model", "RewardModule", "--model.model", "model", "--model.seed", "4"]
DPO = ["--model", "DPOModule", "--model.model", "model", "--model.max_new_tokens", "3", *PAIRS]
PPO = [
    "--model", "PPOModule", "--model.model", "model", "--model.reward", "tests.ranks.material.small_ids",
    "--data", "PromptDataModule", "--data.path", "prompts.jsonl", "--data.batch_size", "9",
    "--model.samples_per_prompt", "2", "--model.minibatch_size", "10", "--model.epochs", "2",
    "--model.max_new_tokens", "6", "--trainer.accumulate_grad_batches", "2", "--trainer.max_epochs", "2",
    "--trainer.gradient_clip_val", "0.5",
]  # fmt: skip
"""18 responses of 1 to 6 tokens in minibatches of 10 and 8, each in two micro-batches."""

ONLINE = ["--model", "OnlineDPOModule", *PPO[2:4], *PPO[6:]]
"""Without what judges."""

PHASES: dict[str, list[str]] = {
    "sft": SFT,
    "reward on pairs": [*REWARD, *PAIRS],
    "reward on rankings": [*REWARD, *RANKINGS],
    "reward, plackett-luce": [*REWARD, *RANKINGS, "--model.loss", "plackett_luce", "--model.unit_variance", "true"],
    "reward, rao-kupper": [*REWARD, *RANKINGS, "--model.ties", "rao_kupper"],
    "reward, luce": [*REWARD, *PAIRS, "--model.link", "luce"],
    "reward, ensemble": [*REWARD, *PAIRS, "--model.components", "{members: 2, combine: mean_minus_std}"],
    "reward, gate": [*REWARD, *PAIRS, "--model.components", "{domains: [a, b], combine: gate}"],
    "dpo": DPO,
    "dpo, padded": [*DPO, "--model.attention", "padded"],
    "dpo, other reference": [*DPO, "--model.reference", "other"],
    "dpo, precomputed": [*DPO, "--model.reference_storage", "precomputed"],
    "ppo": PPO,
    "online dpo, annotator": [*ONLINE, "--model.annotator", "{annotator: tests.ranks.material.many_letters}"],
    "online dpo, moving reference": [
        *ONLINE, "--model.reward", "tests.ranks.material.small_ids", "--model.reference", "{decay: 0.9}",
    ],
    "best of n": ["--model", "ExpertIterationModule", *PPO[2:], "--model.reference", "other"],
    "raft": ["--model", "ExpertIterationModule", *PPO[2:], "--model.method", "raft"],
    "reward-weighted": [
        *("--model", "ExpertIterationModule", *PPO[2:], "--model.method", "reward_weighted", "--model.beta", "0.5"),
    ],
    "ppo, reward model": [*PPO, "--model.reward", "reward"],
    "ppo, critic from reward": [*PPO, "--model.reward", "reward", "--model.critic", "reward"],
    "ppo, shared critic": [*PPO, "--model.critic", "shared"],
    "ppo, gold reward": [*PPO, "--model.gold_reward", "reward"],
    "ppo, ensemble": [*PPO, "--model.reward", "{ensemble: [reward, reward], combine: mean_minus_std, k: 1.0}"],
    "ppo, pretraining": [*PPO, "--model.pretraining", "{path: texts.jsonl, coef: 0.5, batch_size: 3}"],
    "ppo, reference every": [*PPO, "--model.reference", "{every: 1}"],
    "ppo, reference decays": [*PPO, "--model.reference", "{decay: 0.9}"],
    "ppo, other reference": [*PPO, "--model.reference", "other"],
    "ppo, critic warm-up": [*PPO, "--model.critic_warmup", "1"],
    "ppo, target kl": [*PPO, "--model.target_kl", "0.000001"],
    "ppo, adapted kl": [*PPO, "--model.kl_target", "0.5", "--model.kl_horizon", "20"],
    "ppo, shaping": [*PPO, "--model.shaping", "{scale: std, missing_eos_score: -1}"],
    "ppo, few cached tokens": [*PPO, "--model.max_cached_tokens", "60"],
    "rloo": [*PPO, "--model.advantage", "rloo"],
    "grpo": [
        *PPO, "--model.advantage", "grpo", "--model.kl_in", "loss", "--model.kl_estimator", "k3",
        "--model.loss_mean", "responses",
    ],
    "reinforce": [*PPO, "--model.advantage", "reinforce", "--model.level", "sequence"],
}  # fmt: skip

LORA = ["--model.lora", "{r: 4}"]
ADAPTED: dict[str, list[str]] = {
    "sft": [*SFT, *LORA],
    "reward": [*REWARD, *PAIRS, *LORA],
    "dpo": [*DPO, *LORA],
    "dpo, adapter off": [*DPO, *LORA, "--model.reference_storage", "adapter_off"],
    "dpo, precomputed": [*DPO, *LORA, "--model.reference_storage", "precomputed"],
    "ppo": [*PPO, *LORA],
    "ppo, adapter off": [*PPO, *LORA, "--model.reference_storage", "adapter_off"],
    "ppo, shared critic": [*PPO, *LORA, "--model.critic", "shared"],
    "ppo, critic from reward": [*PPO, *LORA, "--model.reward", "reward", "--model.critic", "reward"],
    "best of n, adapter off": [
        *("--model", "ExpertIterationModule", *PPO[2:], *LORA, "--model.reference_storage", "adapter_off"),
    ],
    "rloo, adapter off": [*PPO, *LORA, "--model.advantage", "rloo", "--model.reference_storage", "adapter_off"],
}  # fmt: skip
