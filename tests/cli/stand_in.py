"""A module and data that cost nothing, for tests of what is around them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import nn


class ResumableLoader:
    """Shuffled rows by (seed, epoch); goes on at the row after the last one that was handed out."""

    def __init__(self, module: L.LightningModule, rows: torch.Tensor, batch_size: int) -> None:
        self.module, self.rows, self.batch_size = module, rows, batch_size
        self.position, self.start = 0, 0

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Any:
        generator = torch.Generator().manual_seed(1000 + self.module.current_epoch)
        order = torch.randperm(len(self.rows), generator=generator).split(self.batch_size)
        start, self.start = self.start, 0
        for number in range(start, len(order)):
            self.position = number + 1
            yield {"input_ids": self.rows[order[number]]}

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = state["position"]


class EvaluationLoader:
    """Rows in their order."""

    def __init__(self, rows: torch.Tensor, batch_size: int) -> None:
        self.batches = [{"input_ids": part} for part in rows.split(batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        return iter(self.batches)


class StandInModule(L.LightningModule):
    """A linear map.

    Args:
        width: of the rows.
        optimizer: makes the optimizer.
        interrupt_at: batch (counted over epochs) in whose training step the process sends itself a signal.
        signals: how often.
        number: of the signal.
    """

    def __init__(
        self,
        width: int = 4,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        interrupt_at: int = -1,
        signals: int = 1,
        number: int = int(signal.SIGINT),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer"])
        self.make_optimizer = optimizer
        torch.manual_seed(3)
        self.linear = nn.Linear(width, 1)
        self.seen = 0
        self.epochs_closed: list[int] = []
        self.validated_at: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.trainer.fit_loop.total_batch_idx == self.hparams["interrupt_at"]:
            for _ in range(self.hparams["signals"]):
                os.kill(os.getpid(), self.hparams["number"])
        loss = (self.linear(batch["input_ids"].float()) - 1.0).pow(2).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_train_epoch_end(self) -> None:
        self.epochs_closed.append(self.current_epoch)
        self.log("train/at_epoch_end", float(self.current_epoch + 1))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated_at.append(self.global_step)
        self.log("val/loss", (self.linear(batch["input_ids"].float()) - 1.0).pow(2).mean())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.linear(batch["input_ids"].float()).mean())

    def predict_step(self, batch: Any, batch_idx: int) -> list[dict[str, Any]]:
        return [{"row": row.tolist(), "score": float(self.linear(row.float()))} for row in batch["input_ids"]]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.parameters())

    def sample_table(self) -> list[dict[str, Any]]:
        return [{"prompt": "a|b\nc", "score": 0.5}]

    def export(self, directory: str | Path) -> None:
        Path(directory).mkdir(parents=True, exist_ok=True)
        weights = {name: value.tolist() for name, value in self.state_dict().items()}
        (Path(directory) / "weights.json").write_text(json.dumps(weights))


class StandInData(L.LightningDataModule):
    """Rows of small integers.

    Args:
        rows: how many.
        batch_size: rows a batch.
    """

    def __init__(self, rows: int = 12, batch_size: int = 2) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.rows = torch.arange(rows * 4).reshape(rows, 4) % 7

    def train_dataloader(self) -> ResumableLoader:
        assert self.trainer is not None
        return ResumableLoader(self.trainer.lightning_module, self.rows, self.batch_size)

    def val_dataloader(self) -> Any:
        return EvaluationLoader(self.rows[:2], 2)

    test_dataloader = val_dataloader

    def predict_dataloader(self) -> Any:
        return EvaluationLoader(self.rows, self.batch_size)
