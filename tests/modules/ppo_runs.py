"""Small PPO runs for the tests: a tiny policy, five prompts, a reward that tokens alone decide."""

import lightning as L
import torch

from lit_rlhf.modules.ppo import PPOModule
from lit_rlhf.records import Experience, Row
from tests.conftest import make_llama, make_tokenizer
from tests.modules.training import quiet_trainer

TOKENIZER = make_tokenizer()
ROWS = [
    Row(f"the {word}", columns={"wanted": "a"}, id=word)
    for word in ("soup", "cake", "train", "lamp", "hotel")
]


def share_of_small_ids(prompts, completions, completion_ids, **columns):
    """A reward that tokens alone decide: the share of ids under 150."""
    return [sum(token < 150 for token in ids) / len(ids) for ids in completion_ids]


class Prompts(L.LightningDataModule):
    batch_size = 8
    max_prompt_tokens = None

    def train_dataloader(self):
        return self.trainer.lightning_module.rollout_loader(ROWS)


class Watched(PPOModule):
    """Keeps what passes, for the tests."""

    def on_rollout_end(self, experience: Experience) -> None:
        super().on_rollout_end(experience)
        self.rollouts = [*getattr(self, "rollouts", []), experience]

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.numbers = [*getattr(self, "numbers", []), dict(self._rollout_metrics)]

    def compute_loss(self, batch):
        output = super().compute_loss(batch)
        self.ratios = [*getattr(self, "ratios", []), output.metrics["policy/ratio"].item()]
        return output


def adam(parameters):
    return torch.optim.Adam(parameters, lr=3e-3)


def make_module(optimizer=adam, **changes) -> Watched:
    settings = {
        "reward": share_of_small_ids, "epochs": 2, "minibatch_size": 8, "max_new_tokens": 6, "samples_per_prompt": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    return Watched(make_llama(TOKENIZER), tokenizer=TOKENIZER, optimizer=optimizer, **{**settings, **changes})


def fit(module: PPOModule, ckpt_path: str | None = None, **trainer_settings) -> L.Trainer:
    trainer = quiet_trainer(**trainer_settings)
    trainer.fit(module, datamodule=Prompts(), ckpt_path=ckpt_path)
    return trainer
