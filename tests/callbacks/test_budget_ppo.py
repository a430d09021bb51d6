"""A budget that ends PPO inside an iteration: a larger one goes on with the rest of the same rollout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lit_rlhf import PPOModule, PromptDataModule
from lit_rlhf.callbacks import TrainingBudget
from lit_rlhf.callbacks.budget import CLOCKS
from lit_rlhf.cli.checkpoints import LastCheckpoint
from tests.callbacks.trainer import make_trainer
from tests.conftest import make_llama, make_tokenizer

TOKENIZER = make_tokenizer()
PROMPTS = [{"prompt": f"the soup {number}"} for number in range(6)]


def letters(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    return [text.count("t") / 10 for text in completions]


class Ticking(Callback):
    """A second passes in each batch."""

    now = 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        Ticking.now += 1


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ticking, "now", 0.0)
    monkeypatch.setitem(CLOCKS, "cpu", lambda: Ticking.now)


class Recorded(PPOModule):
    """Remembers which rollouts it drew."""

    def on_rollout_start(self, iteration: int) -> None:
        super().on_rollout_start(iteration)
        self.drawn = [*getattr(self, "drawn", []), iteration]


def train(run: Path, seconds: float, checkpoint: Path | None = None) -> tuple[Recorded, L.Trainer]:
    """4 batches an iteration."""
    module = Recorded(
        make_llama(TOKENIZER), letters, tokenizer=TOKENIZER, minibatch_size=2, epochs=2, max_new_tokens=4, seed=3,
        kl_target=1.0,
    )  # fmt: skip
    trainer = make_trainer(run, [Ticking(), TrainingBudget(seconds), LastCheckpoint(run)], max_epochs=-1)
    trainer.fit(module, PromptDataModule(PROMPTS, batch_size=4, seed=3), ckpt_path=checkpoint)
    return module, trainer


def test_a_larger_budget_goes_on_inside_the_iteration(tmp_path: Path) -> None:
    whole, _ = train(tmp_path / "whole", 9)
    first, trainer = train(tmp_path / "parts", 6)
    assert trainer.global_step == 6 and first.drawn == [0, 1]
    last = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    done, trainer = train(tmp_path / "parts", 6, last)
    assert trainer.global_step == 6 and not hasattr(done, "drawn")
    more, trainer = train(tmp_path / "parts", 9, last)
    assert trainer.global_step == 9 and more.drawn == [2]
    assert all(
        torch.equal(one, other)
        for one, other in zip(whole.network.state_dict().values(), more.network.state_dict().values())
    )
    assert whole.kl_coef == more.kl_coef
