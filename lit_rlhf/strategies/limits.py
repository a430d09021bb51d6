"""What strategies of Lightning's that gather weights inside a wrapped forward alone cannot do."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, Strategy


def why_not_sampling(strategy: Strategy | Any) -> str | None:
    """What keeps a policy from decoding under a strategy: its weights are whole in a training forward only.

    Args:
        strategy: of the trainer.

    Returns:
        Its name as a config has it; None where a policy can sample.
    """
    if isinstance(strategy, FSDPStrategy):
        return "fsdp (FSDP1)"
    if isinstance(strategy, DeepSpeedStrategy) and strategy.zero_stage_3:
        return "deepspeed_stage_3"
    return None


def scales_late(strategy: Strategy | Any) -> bool:
    """Whether gradients can be divided by a whole accumulation window's count before the optimizer's step.

    DeepSpeed keeps gradients to itself.
    """
    return not isinstance(strategy, DeepSpeedStrategy)
