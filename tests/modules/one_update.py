"""A fit of one update of plain descent, which shows the gradient at the start."""

from typing import Any

import torch

from tests.modules.ppo_runs import Watched, fit, make_module
from tests.modules.training import sgd, weights_of


def one_update(
    trainer_settings: dict[str, Any] | None = None, **settings: Any
) -> tuple[Watched, torch.Tensor]:
    """The module after its only update, on all eight prompts' responses, and the gradient in one vector."""
    responses = 8 * settings.get("samples_per_prompt", 2)
    module = make_module(optimizer=sgd, **{"epochs": 1, "minibatch_size": responses, **settings})
    start = weights_of(module.network)
    fit(module, **(trainer_settings or {}))
    return module, (start - weights_of(module.network)) / 0.1
