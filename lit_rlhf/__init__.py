"""Reinforcement learning from human feedback as Lightning modules.

The public names are loaded when they are first used, so ``import lit_rlhf`` stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "SFTModule": "lit_rlhf.modules.sft",
    "RewardModule": "lit_rlhf.modules.reward",
    "PPOModule": "lit_rlhf.modules.ppo",
    "DPOModule": "lit_rlhf.modules.dpo",
    "OnlineDPOModule": "lit_rlhf.modules.online_dpo",
    "ExpertIterationModule": "lit_rlhf.modules.expert_iteration",
    "DemonstrationDataModule": "lit_rlhf.data.datamodules",
    "PairDataModule": "lit_rlhf.data.datamodules",
    "RankingDataModule": "lit_rlhf.data.datamodules",
    "PromptDataModule": "lit_rlhf.data.datamodules",
    "FSDP2Strategy": "lit_rlhf.strategies.fsdp2",
    "deferred_weights": "lit_rlhf.models.deferred_weights",
}

__all__ = [
    "DPOModule",
    "DemonstrationDataModule",
    "ExpertIterationModule",
    "FSDP2Strategy",
    "OnlineDPOModule",
    "PPOModule",
    "PairDataModule",
    "PromptDataModule",
    "RankingDataModule",
    "RewardModule",
    "SFTModule",
    "deferred_weights",
]

if TYPE_CHECKING:
    from lit_rlhf.data.datamodules import (
        DemonstrationDataModule,
        PairDataModule,
        PromptDataModule,
        RankingDataModule,
    )
    from lit_rlhf.models.deferred_weights import deferred_weights
    from lit_rlhf.modules.dpo import DPOModule
    from lit_rlhf.modules.expert_iteration import ExpertIterationModule
    from lit_rlhf.modules.online_dpo import OnlineDPOModule
    from lit_rlhf.modules.ppo import PPOModule
    from lit_rlhf.modules.reward import RewardModule
    from lit_rlhf.modules.sft import SFTModule
    from lit_rlhf.strategies.fsdp2 import FSDP2Strategy


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lit_rlhf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
