"""Short fits for tests: a trainer that writes nothing, and small data in tokens."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from lit_rlhf import DPOModule
from lit_rlhf.records import Comparison, LossOutput, Tree


def quiet_trainer(**settings: Any) -> L.Trainer:
    """A CPU trainer of one epoch without files or output."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
    }
    return L.Trainer(**{**defaults, **settings})


def sgd(parameters: Any) -> torch.optim.Optimizer:
    """Plain gradient descent: weights after a step show the gradient itself."""
    return torch.optim.SGD(parameters, lr=0.1)


def random_trees(count: int, seed: int = 0, most_responses: int = 4) -> list[Tree]:
    """Trees of uneven prompts, responses and K, with all strict comparisons of a random ranking."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    trees = []
    for number in range(count):
        responses = [
            [draw(10, 300) for _ in range(draw(1, 12))] + [1] for _ in range(draw(2, most_responses))
        ]
        order = torch.randperm(len(responses), generator=generator).tolist()
        comparisons = [
            Comparison(order[i], order[j]) for i in range(len(order)) for j in range(i + 1, len(order))
        ]
        masks = [[True] * len(response) for response in responses]
        prompt = [0] + [draw(10, 300) for _ in range(draw(0, 9))]
        trees.append(Tree(prompt, responses, masks, comparisons, id=f"row {number}"))
    return trees


def weights_of(module: torch.nn.Module) -> torch.Tensor:
    """All parameters in one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


class WatchedDPO(DPOModule):
    """Keeps the training losses."""

    losses: list[float]

    def compute_loss(self, batch: Any) -> LossOutput:
        output = super().compute_loss(batch)
        if self.trainer.training:
            self.losses = [*getattr(self, "losses", []), (output.total / output.count).item()]
        return output
