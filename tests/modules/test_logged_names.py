"""Every name that a module logs is in the one list, and every name of the list is logged by somebody."""

import lightning as L
import torch

from lit_rlhf import (
    DemonstrationDataModule,
    DPOModule,
    ExpertIterationModule,
    OnlineDPOModule,
    PairDataModule,
    PPOModule,
    PromptDataModule,
    RankingDataModule,
    RewardModule,
    SFTModule,
)
from lit_rlhf.callbacks import Throughput, TrainingBudget
from lit_rlhf.metrics import LOGGED_NAMES
from tests.conftest import make_llama, make_tokenizer
from tests.modules.training import quiet_trainer

TOKENIZER = make_tokenizer()
PAIRS = [{"prompt": f"the soup {i}", "chosen": " is tasty", "rejected": " is late"} for i in range(8)]
RANKINGS = [
    {"prompt": f"the soup {i}", "responses": [" is tasty now", " is late", " ."], "ranks": [1, 2, 3]}
    for i in range(8)
]
DEMONSTRATIONS = [{"prompt": f"the soup {i}", "response": " is tasty"} for i in range(8)]
PROMPTS = [{"prompt": f"the soup {i}"} for i in range(8)]


def length(prompts, completions, **columns):
    return [float(len(text)) for text in completions]


def fits() -> list[tuple[L.LightningModule, L.LightningDataModule]]:
    torch.manual_seed(0)
    shared = {"tokenizer": TOKENIZER}
    demonstrations = DemonstrationDataModule(DEMONSTRATIONS, val_path=DEMONSTRATIONS, batch_size=4)
    return [
        (SFTModule(make_llama(TOKENIZER), **shared), demonstrations),
        (
            RewardModule(make_llama(TOKENIZER), meta={"samples": RANKINGS}, **shared),
            RankingDataModule(RANKINGS, val_path=RANKINGS, batch_size=4),
        ),
        (DPOModule(make_llama(TOKENIZER), **shared), PairDataModule(PAIRS, val_path=PAIRS, batch_size=4)),
        (
            DPOModule(make_llama(TOKENIZER), loss="kto", sft_coef=0.1, **shared),
            PairDataModule(PAIRS, val_path=PAIRS, batch_size=4),
        ),
        (
            DPOModule(make_llama(TOKENIZER), loss="bco", wpo=True, **shared),
            PairDataModule(PAIRS, val_path=PAIRS, batch_size=4),
        ),
        (
            PPOModule(
                make_llama(TOKENIZER), length, gold_reward=length, minibatch_size=4, max_new_tokens=4, target_kl=1e9,
                pretraining={"path": DEMONSTRATIONS, "batch_size": 2}, **shared,
            ),
            PromptDataModule(PROMPTS, val_path=PROMPTS, batch_size=8),
        ),
        (
            OnlineDPOModule(make_llama(TOKENIZER), length, minibatch_size=16, max_new_tokens=4, **shared),
            PromptDataModule(PROMPTS, val_path=PROMPTS, batch_size=8),
        ),
        (
            OnlineDPOModule(
                make_llama(TOKENIZER), annotator={"annotator": f"{__name__}.length"}, minibatch_size=16,
                max_new_tokens=4, **shared,
            ),
            PromptDataModule(PROMPTS, val_path=PROMPTS, batch_size=8),
        ),
        (
            ExpertIterationModule(
                make_llama(TOKENIZER), length, "reward_weighted", beta=1.0, gold_reward=length, minibatch_size=32,
                max_new_tokens=4, **shared,
            ),
            PromptDataModule(PROMPTS, val_path=PROMPTS, batch_size=8),
        ),
    ]  # fmt: skip


def test_modules_log_the_list_and_the_list_is_logged():
    logged = set()
    for module, data in fits():
        trainer = quiet_trainer(callbacks=[Throughput(), TrainingBudget()])
        trainer.fit(module, datamodule=data)
        logged |= set(trainer.logged_metrics) | set(trainer.callback_metrics)
    assert logged - set(LOGGED_NAMES) == set()
    assert set(LOGGED_NAMES) - logged == set()
