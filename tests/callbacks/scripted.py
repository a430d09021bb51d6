"""A module that logs what it is told to, with a real optimizer and state of its own beside the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning as L
import torch
from torch import nn

HEALTHY = {
    "objective/entropy": 1.0,
    "objective/kl": 2.0,
    "objective/scores": 0.5,
    "rollout/response_length": 10.0,
    "rollout/eos_rate": 0.9,
    "value/explained_variance": 0.3,
}


class Batches:
    """A loader of so many batches of nothing."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter([torch.zeros(1)] * self.count)


class Scripted(L.LightningModule):
    """Two updates an epoch of a linear map towards random targets; at its end it logs its script.

    Args:
        script: for each epoch what differs from :data:`HEALTHY`; the last entry goes on.
        schedule: makes a scheduler, stepped once an update.
        bad_gradient_at: update whose gradient is not finite.
        rank_script: the script of ranks above 0, which then log for themselves; None = the same.
    """

    def __init__(
        self,
        script: Sequence[dict[str, float]] = ({},),
        schedule: Callable[[Any], Any] | None = None,
        bad_gradient_at: int = -1,
        rank_script: Sequence[dict[str, float]] | None = None,
    ) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.linear = nn.Linear(4, 1)
        self.script, self.rank_script, self.schedule = script, rank_script, schedule
        self.bad_gradient_at = bad_gradient_at
        self.coefficient = 0.0
        self.at_start: list[torch.Tensor] = []
        self.rates: list[float] = []

    def train_dataloader(self) -> Any:
        return Batches(2)

    def on_train_epoch_start(self) -> None:
        self.at_start.append(self.linear.weight.detach().clone())
        self.coefficient += 1.0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(100 * self.current_epoch + batch_idx)
        inputs = torch.randn(3, 4, generator=generator)
        loss = (self.linear(inputs) - torch.randn(3, 1, generator=generator)).square().mean()
        if self.global_step == self.bad_gradient_at:
            loss = loss + (self.linear.weight.sum() * 0.0).sqrt()  # 0, with a gradient of 0 times infinity
        self.rates.append(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        return loss

    def on_train_epoch_end(self) -> None:
        script = self.rank_script if self.global_rank and self.rank_script is not None else self.script
        for name, value in {**HEALTHY, **script[min(self.current_epoch, len(script) - 1)]}.items():
            self.log(name, value)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        if self.schedule is None:
            return optimizer
        scheduler = self.schedule(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["own"] = {"coefficient": self.coefficient}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.coefficient = checkpoint["own"]["coefficient"]
