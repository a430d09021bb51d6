"""Short fits of the phases on trees, on one process or spread over several, for the tests of strategies."""

from __future__ import annotations

import os
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from lit_rlhf import DPOModule, RewardModule, SFTModule, deferred_weights
from lit_rlhf.models.sharding import reshard, whole
from tests.conftest import make_llama, make_tokenizer
from tests.modules.test_one_mean import Batches
from tests.modules.training import quiet_trainer, random_trees, sgd

TOKENIZER = make_tokenizer()
TREES = random_trees(8)
GROUPS = [[0, 1, 2, 3], [4, 5, 6], [7, 0], [3, 5, 1]]
"""Uneven over two ranks and four, gone through in accumulation windows of two."""
PHASES = {"sft": SFTModule, "reward": RewardModule, "dpo": DPOModule}


def fitted(
    phase: str,
    strategy: Any,
    model: str | None = None,
    out: Path | None = None,
    clip: float = 0.01,
    groups: list[list[int]] = GROUPS,
    **settings: Any,
) -> dict[str, Any]:
    """Weights of a fit, its loss, and on rank 0 its export; weights of `model` are read late on several processes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        signal.alarm(100)  # ranks that wait for one another for ever end here
    if phase == "reward":
        settings = {"center": False, **settings}
    with deferred_weights() if model and ranks > 1 else nullcontext():
        module = PHASES[phase](model or make_llama(TOKENIZER), optimizer=sgd, tokenizer=TOKENIZER, **settings)
    trainer = quiet_trainer(
        strategy=strategy, devices=ranks, accumulate_grad_batches=2, gradient_clip_val=clip
    )
    trainer.fit(module, Batches(groups, *data_rank_before(trainer), trees=TREES))
    found = {"loss": float(trainer.callback_metrics["train/loss"]), "weights": gathered(module)}
    if out is not None:
        module.export(out)
        if trainer.is_global_zero:
            found["export"] = load_file(out / "model.safetensors")
    return found


def data_rank_before(trainer: Any) -> tuple[int, int]:
    """What `data_rank` will say, of a trainer whose processes have not met yet."""
    together = getattr(trainer.strategy, "_tensor_parallel_size", 1)
    return trainer.global_rank // together, trainer.world_size // together


def gathered(module: torch.nn.Module) -> np.ndarray:
    """All parameters of a module in one vector, whole."""
    reshard(module)
    return torch.cat([whole(parameter.detach()).flatten() for parameter in module.parameters()]).numpy()
