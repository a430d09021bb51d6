"""What a config says of its ranks, held against the strategies that there are and the processes that were started."""

from __future__ import annotations

import os
from typing import Any

from lightning.pytorch.strategies import StrategyRegistry

from lit_rlhf.cli.refusal import did_you_mean, refuse

USUAL = ("auto", "ddp", "fsdp2", "deepspeed_stage_2", "deepspeed_stage_3", "fsdp")


def check_ranks(trainer: Any) -> None:
    """Refuse a strategy that there is not, and a number of ranks that torchrun has not started.

    Args:
        trainer: its settings in the config.

    Raises:
        SystemExit: with code 2.
    """
    strategy = trainer.strategy
    if isinstance(strategy, str):
        known = {"auto", *StrategyRegistry.available_strategies()}
        if strategy.lower() not in known:
            hint = did_you_mean(strategy, sorted(known))
            refuse(
                f"--trainer.strategy {strategy}: there is no such strategy. {hint}".rstrip(),
                f"Usual ones: {', '.join(USUAL)}.",
            )
    started, devices = os.environ.get("WORLD_SIZE"), str(trainer.devices)
    if "TORCHELASTIC_RUN_ID" in os.environ and started and devices.isdecimal():
        asked = int(devices) * int(trainer.num_nodes)
        if asked != int(started):
            refuse(
                f"torchrun started {started} processes, and trainer.devices ({devices}) times trainer.num_nodes "
                f"({trainer.num_nodes}) is {asked}.",
                "Give --trainer.devices what torchrun has as --nproc-per-node, and --trainer.num_nodes its --nnodes.",
            )
