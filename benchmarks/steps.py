"""The commands of the real-text runs, by phase and in their order."""

from __future__ import annotations

from benchmarks.command_line import Step

TEXT = "$DATA/text_wiki/train.jsonl,$DATA/text_c4/train.jsonl,$DATA/text_tinyshakespeare/train.jsonl"
UNTIL_BEST = "--config benchmarks/until_best.yaml"
START = "--model.model $OUT/pretrain/export"

PRETRAIN_UPDATES, PRETRAIN_BATCH = 1500, 8
PRETRAIN_WINDOWS = PRETRAIN_UPDATES * PRETRAIN_BATCH
PRETRAIN = [
    Step(
        "model",
        """init $OUT/model --size tiny --text $DATA/text_wiki/train.jsonl $DATA/text_c4/train.jsonl
        $DATA/text_tinyshakespeare/train.jsonl $DATA/demos_e2e/train.jsonl $DATA/pairs_ukp_convarg/train.jsonl
        $DATA/pairs_hh_harmless/train.jsonl $DATA/pairs_blimp/train.jsonl""",
    ),
    Step(
        "pretrain",
        f"""fit --config configs/pretrain.yaml --model.model $OUT/model
        --data.path [{TEXT},$OUT/files/pretrain_pairs.jsonl] --data.batch_size {PRETRAIN_BATCH}
        --model.scheduler OneCycleLR --model.scheduler.max_lr 3e-3 --model.scheduler.total_steps {PRETRAIN_UPDATES}
        --model.scheduler.pct_start 0.1 --model.scheduler.cycle_momentum false
        --trainer.max_epochs -1 --trainer.max_steps {PRETRAIN_UPDATES} --trainer.val_check_interval 250
        --trainer.check_val_every_n_epoch null --out $OUT/pretrain""",
    ),
]

DEMOS = "--data.path $DATA/demos_e2e/train.jsonl"
SFT = [
    Step(
        "sft-before",
        f"test --config configs/sft.yaml {START} {DEMOS} --data.test_path $DATA/demos_e2e/valid.jsonl "
        "--out $OUT/sft-before",
    ),
    Step(
        "sft",
        f"""fit --config configs/sft.yaml {UNTIL_BEST} {START} --model.optimizer.lr 1e-3
        {DEMOS} --data.val_fraction 0.1 --trainer.max_epochs 5 --trainer.val_check_interval 0.5 --out $OUT/sft""",
    ),
    Step("sft-best", "export $OUT/sft/checkpoints/best.ckpt $OUT/sft-best"),
    Step(
        "sft-after",
        f"test --config configs/sft.yaml --model.model $OUT/sft-best {DEMOS} "
        "--data.test_path $DATA/demos_e2e/valid.jsonl --out $OUT/sft-after",
    ),
    Step(
        "sft-samples",
        f"predict --config configs/sft.yaml --model.model $OUT/sft-best {DEMOS} "
        "--data.predict_path $OUT/files/prompts_sampled.jsonl --data.batch_size 50 --out $OUT/sft-samples",
    ),
]


def reward_steps(name: str, training_data: str, limits: str, held_out: str) -> list[Step]:
    """A reward model until its validation loss stops falling, and its scores of the held-out pairs."""
    return [
        Step(
            f"reward-{name}",
            f"""fit --config configs/reward.yaml {UNTIL_BEST} {START} --model.optimizer.lr 3e-4
            {training_data} {limits}
            --trainer.max_epochs 4 --trainer.val_check_interval 0.5 --out $OUT/reward-{name}""",
        ),
        Step(
            f"reward-{name}-best", f"export $OUT/reward-{name}/checkpoints/best.ckpt $OUT/reward-{name}-best"
        ),
        Step(
            f"reward-{name}-scores",
            f"predict --config configs/reward.yaml --model.model $OUT/reward-{name}-best --data.path {held_out} "
            f"--data.predict_path {held_out} {limits} --out $OUT/reward-{name}-scores",
        ),
    ]


REWARD = [
    *reward_steps(
        "ukp",
        "--data.path $OUT/files/ukp_train.jsonl --data.val_path $OUT/files/ukp_dev.jsonl --data.val_fraction 0",
        "--data.max_prompt_tokens 64 --data.max_response_tokens 256",
        "$DATA/pairs_ukp_convarg/valid.jsonl",
    ),
    *reward_steps(
        "hh",
        "--data.path $DATA/pairs_hh_harmless/train.jsonl --data.val_fraction 0.1",
        "--data.max_prompt_tokens 192 --data.max_response_tokens 128",
        "$DATA/pairs_hh_harmless/valid.jsonl",
    ),
]

PPO = [
    Step(
        "ppo",
        """fit --config configs/ppo.yaml --model.model $OUT/sft-best
        --model.reward benchmarks.slot_coverage.slot_coverage --model.kl_coef 0.02 --model.shaping.missing_eos_score 0
        --model.optimizer.lr 3e-4 --model.critic_learning_rate 1e-3 --model.epochs 2 --model.minibatch_size 128
        --data.path $OUT/files/prompts_train.jsonl --data.val_path $OUT/files/prompts_val.jsonl --data.val_fraction 0
        --data.batch_size 256 --trainer.max_epochs 24 --trainer.check_val_every_n_epoch 4 --out $OUT/ppo""",
    ),
    Step(
        "ppo-samples",
        f"predict --config configs/sft.yaml --model.model $OUT/ppo/export {DEMOS} "
        "--data.predict_path $OUT/files/prompts_sampled.jsonl --data.batch_size 50 --out $OUT/ppo-samples",
    ),
]

BLIMP = "--data.path $DATA/pairs_blimp/train.jsonl"
DPO = [
    Step(
        "dpo",
        f"""fit --config configs/dpo.yaml {UNTIL_BEST} {START} --model.reference_storage precomputed
        --model.optimizer.lr 3e-4 {BLIMP} --data.val_fraction 0.1 --trainer.max_epochs 5
        --trainer.val_check_interval 0.5 --out $OUT/dpo""",
    ),
    Step("dpo-best", "export $OUT/dpo/checkpoints/best.ckpt $OUT/dpo-best"),
    Step(
        "dpo-after",
        f"""test --config configs/dpo.yaml --model.model $OUT/dpo-best --model.reference $OUT/pretrain/export {BLIMP}
        --data.test_path $DATA/pairs_blimp/valid.jsonl --out $OUT/dpo-after""",
    ),
]

PHASES = {"pretrain": PRETRAIN, "sft": SFT, "reward": REWARD, "ppo": PPO, "dpo": DPO}
